"""The images that tell F_cam the cameras (3.3): another person's, from files or rendered. K views, S image
side."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from core.errors import InputError
from generators.base import Renderer
from generators.registry import RENDERERS, RendererChoice, check_renderer, is_renderer, open_renderer
from portraits.image_folders import read_squares, view_files

CHUNK = 8  # views rendered at once: a scene is built for each chunk, and the bar moves with it
CONDITIONS = "conditions"


def find_conditions(source: RendererChoice) -> list[Path] | None:
    """The files of the conditions where `source` is a folder of them, in the order of the views; None where
    it chooses a renderer.

    Raises InputError where it is neither, a folder without images, or a renderer that cannot be opened.
    """
    if not isinstance(source, str) or is_renderer(source):
        check_renderer(source)
        return None
    if not Path(source).is_dir():
        raise InputError(
            f"--conditions {source}: there is no such folder, and the renderers are {', '.join(RENDERERS)}"
        )
    return view_files(Path(source), CONDITIONS)


def read_conditions(files: list[Path], size: int) -> list[Image.Image]:
    """Condition images (S, S) from files. Raises InputError where one is damaged or not square."""
    return read_squares(files, size, CONDITIONS)


def prepare_renderer(choice: RendererChoice) -> Renderer:
    """The renderer that a setting chooses. Raises InputError for an unknown one, or where its packages are
    missing."""
    try:
        return open_renderer(choice)
    except ModuleNotFoundError as error:
        raise InputError(
            f"--conditions {choice}: rendering takes the package {error.name}: pip install -e '.[capture]',"
            " or give a folder of images"
        ) from error


def render_view_conditions(
    renderer: Renderer, identity: int, cameras: NDArray[np.float32], size: int
) -> list[Image.Image]:
    """The person numbered `identity` from all cameras (K, 25), (S, S) each, with a progress bar."""
    images: list[Image.Image] = []
    with tqdm(total=len(cameras), desc=CONDITIONS, unit="view") as bar:
        for start in range(0, len(cameras), CHUNK):
            chunk = cameras[start : start + CHUNK]
            images += [Image.fromarray(image) for image in renderer.render(identity, chunk, size).images]
            bar.update(len(chunk))
    return images
