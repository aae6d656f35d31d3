"""Folders of images for the tests of `synthesize`, and what is in its results."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 32  # of the toy model's images


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def views(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "views").iterdir())])


def squares(folder: Path, count: int, side: int = SIZE) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (side, side), (40 * number, 90, 90)).save(folder / f"{number}.png")
    return folder
