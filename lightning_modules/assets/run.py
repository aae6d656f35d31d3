"""What `synthesize` wrote of one person: views, cameras and portraits. K views, S image side."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from core.tensors import read_json
from portraits.camera_files import read_cameras
from portraits.image_folders import check_count, read_squares, view_files
from portraits.pixels import Images, check_side


@dataclass(frozen=True)
class Run:
    """One person's views (K, S, S, 3) with their cameras (K, 25), None where the run has none; the portraits
    that they were made of; and the folder of the model that made them."""

    images: Images
    cameras: NDArray[np.float32] | None
    portraits: list[Image.Image]
    model: str

    @property
    def side(self) -> int:
        """S."""
        return self.images.shape[1]


def read_run(folder: Path) -> Run:
    """The run in a folder of `synthesize`, or in one person's folder in it.

    Raises InputError where it is no such folder, its views and cameras differ in number, or an image is
    damaged.
    """
    common = folder if (folder / "settings.json").is_file() else folder.parent
    settings = read_json(common / "settings.json")
    size = settings.get("image_size")
    if type(size) is not int:
        raise InputError(f"{common / 'settings.json'}: it has no image_size: `synthesize` did not write it")
    check_side(size, f"{common / 'settings.json'}: image_size", least=1)
    file = common / "cameras.json"
    cameras = read_cameras([file]) if file.is_file() else None
    files = view_files(folder / "views", "views")
    if cameras is not None:
        check_count(files, len(cameras), "views")
    photos = sorted(folder.glob("portrait_*.png"))
    if not photos:
        raise InputError(f"{folder}: it has no portrait_0.png: give a folder that `synthesize` wrote")
    views = np.stack([np.asarray(image) for image in read_squares(files, size, "views")])
    return Run(views, cameras, read_squares(photos, size, "portraits"), str(settings.get("model", "")))
