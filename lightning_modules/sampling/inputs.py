"""Conversion of PIL images to the pipeline's input tensors. R references, N images, S image side."""

from collections.abc import Sequence, Sized

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from core.errors import InputError
from portraits.alignment.photos import upright_rgb
from portraits.people import MIN_SIDE
from portraits.pixels import levels_to_pixels


def pil_images(given: object, what: str) -> list[Image.Image]:
    """One PIL image or several, as a list. Raises InputError if there are others; `what` names them."""
    images = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    odd = [type(image).__name__ for image in images if not isinstance(image, Image.Image)]
    if odd:
        raise InputError(
            f"{what}: give PIL images, not {odd[0]}: Image.open reads a file, Image.fromarray an array"
        )
    return list(images)


def portrait_pixels(images: Sequence[Image.Image], side: int) -> Tensor:
    """The central squares of photos of any size and shape: (1, R, 3, S, S) in [-1, 1], S = `side`.

    Photos are converted as from files: upright by their EXIF orientation, transparency over white, in sRGB.
    Raises InputError if there are none, or one has a side of less than `MIN_SIDE` pixels.
    """
    if not images:
        raise InputError("no portrait was given")
    if small := next((image.size for image in images if min(image.size) < MIN_SIDE), None):
        raise InputError(f"a portrait of {small[0]}x{small[1]} pixels: give at least {MIN_SIDE} a side")
    squares = [ImageOps.fit(image, (min(image.size),) * 2) for image in map(upright_rgb, images)]
    return levels_to_pixels(square_levels(squares, side, "portrait"))


def square_levels(images: Sequence[Image.Image], side: int, what: str) -> Tensor:
    """Convert square images of any size to (1, N, 3, S, S) uint8, S = `side`.

    Raises InputError if one is not square; `what` names the images in the message.
    """
    if odd := next((image.size for image in images if image.width != image.height), None):
        raise InputError(f"{what}: an image of {odd[0]}x{odd[1]} pixels; give square images, cropped alike")
    squares = [upright_rgb(image).resize((side, side), Image.Resampling.LANCZOS) for image in images]
    return torch.from_numpy(np.stack([np.asarray(square) for square in squares])).movedim(-1, 1)[None]


def view_count(**inputs: Sized | None) -> int:
    """K, the common length of inputs with one item per view (None: not given).

    Raises InputError if none is given, or their lengths differ.
    """
    counts = {name: len(items) for name, items in inputs.items() if items is not None}
    if not counts or 0 in counts.values():
        raise InputError("the views are missing: give cameras, conditions or both")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(f"{listed}: give one of each for each view")
    return next(iter(counts.values()))
