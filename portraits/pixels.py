"""Conversion between 8-bit images, as in files, and pixels in [-1, 1], as in networks."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

if TYPE_CHECKING:  # importing torch takes seconds, and worker processes that only render do not need it
    from torch import Tensor

MIDDLE = 127.5  # levels
LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B in brightness
LEAST_SIDE, MAX_SIDE = 16, 8192  # pixels of the images that commands write

Images = NDArray[np.uint8]
"""Images (…, S, S, 3)."""


def to_pixels(images: Images) -> "Tensor":
    """Convert images (…, S, S, 3) uint8 to float32 (…, 3, S, S) in [-1, 1]."""
    import torch

    return levels_to_pixels(torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3))


def to_images(pixels: "Tensor") -> Images:
    """Convert pixels (…, 3, S, S), any device and float dtype, clamped to [-1, 1], to images (…, S, S, 3)
    uint8."""
    return np.ascontiguousarray(pixels_to_levels(pixels).movedim(-3, -1).cpu().numpy())


def levels_to_pixels(levels: "Tensor") -> "Tensor":
    """Convert levels, uint8 of any shape, to float32 pixels in [-1, 1]."""
    return levels.float().div(MIDDLE).sub(1)


def pixels_to_levels(pixels: "Tensor") -> "Tensor":
    """Convert pixels of any shape, clamped to [-1, 1], to levels, uint8, rounded to nearest."""
    return pixels.float().add(1).mul(MIDDLE).round().clamp(0, 255).byte()


def brightness_gradient(pixels: "Tensor") -> "tuple[Tensor, Tensor]":
    """The gradient of the brightness of pixels (…, 3, S, S), per pixel: down and across, each (…, S, S)."""
    import torch

    brightness = torch.einsum("...chw,c->...hw", pixels.float(), torch.tensor(LUMA, device=pixels.device))
    down, across = torch.gradient(brightness, dim=(-2, -1))
    return down, across


def check_side(side: int, name: str, least: int = LEAST_SIDE) -> None:
    """Raise InputError, which begins with `name`, unless an image side is from `least` to `MAX_SIDE` pixels.
    Far larger images fit no memory, and the system would kill the process."""
    if not least <= side <= MAX_SIDE:
        raise InputError(f"{name} {side}: give {least} to {MAX_SIDE} pixels")
