"""Folders with one square image per view: conditions, or proxies for 3D-aware noise. S image side."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from core.errors import InputError
from portraits.alignment.photos import SUFFIXES, is_photo, open_photo

_DIGITS = re.compile(r"(\d+)")


def image_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, in natural order (2.png before 10.png)."""
    found = (path for path in folder.iterdir() if is_photo(path))
    return sorted(found, key=lambda path: (_natural(path.name), path.name))


def view_files(folder: Path, what: str) -> list[Path]:
    """The image files of a folder with one for each view. Raises InputError if the folder is missing or
    empty; `what` names the images in the message."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of {what}")
    files = image_files(folder)
    if not files:
        raise InputError(f"{folder}: there are no {what} in it ({', '.join(SUFFIXES)})")
    return files


def check_count(files: Sequence[Path], views: int, what: str) -> None:
    """Raise InputError unless there is one file for each of `views` views; `what` names them in the
    message."""
    if len(files) != views:
        raise InputError(
            f"{files[0].parent}: it holds {len(files)} {what} for {views} cameras: give one for each camera"
        )


def read_squares(files: Sequence[Path], size: int, what: str) -> list[Image.Image]:
    """Read files as RGB images (S, S), S = `size`.

    Raises InputError if one is damaged or not square, as cropping would change its camera; `what` names the
    images in the message.
    """
    return [_read_square(path, size, what) for path in files]


def _read_square(path: Path, size: int, what: str) -> Image.Image:
    image = open_photo(path)
    if image.width != image.height:
        raise InputError(
            f"{path}: {image.width}x{image.height} pixels; {what} are square"
            " (`python -m portraits.align` crops photos)"
        )
    return image if image.width == size else image.resize((size, size), Image.Resampling.LANCZOS)


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that compares numbers within names by value."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in _DIGITS.split(name) if part]
