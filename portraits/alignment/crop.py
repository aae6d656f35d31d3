"""EG3D's crop: its square in a photo, and extraction by a single antialiased resampling."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from core.errors import InputError
from portraits.geometry import LANDMARKS_3D

RESCALE = 300.0  # EG3D scales the photo so that one unit of LANDMARKS_3D is this many pixels …
CENTRE_CROP = 700.0  # … and cuts out a square of this side about the landmarks' origin
MAX_SIDE = 1 << 15


@dataclass(frozen=True)
class Square:
    """An axis-aligned square in pixels of an image, (0, 0) its top left corner; it may extend beyond the
    image."""

    left: float
    top: float
    side: float

    def normalised(self, points: ArrayLike) -> NDArray[np.float64]:
        """Convert pixels (N, 2) to coordinates in which (0, 0) is the square's top left corner, (1, 1) its
        bottom right."""
        return (np.asarray(points, dtype=np.float64) - (self.left, self.top)) / self.side


def square_around(landmarks: ArrayLike, height: int) -> Square:
    """EG3D's square around five landmarks (5, 2), pixels, in a photo of this height.

    A scaled orthographic camera is fitted to the landmarks; its shift gives the square's centre, its scale
    the side. Roll is kept. (EG3D rounds to whole pixels of the rescaled photo; this does not.)
    """
    points = np.asarray(landmarks, dtype=np.float64)
    seen = np.stack([points[:, 0], height - 1 - points[:, 1]], axis=1)  # EG3D's y axis points up
    system = np.concatenate([LANDMARKS_3D, np.ones((5, 1))], axis=1)
    affine = np.linalg.lstsq(system, seen, rcond=None)[0]  # (4, 2): two rows of the camera and the shift
    scale = np.linalg.norm(affine[:3], axis=0).mean()
    side = CENTRE_CROP / RESCALE * scale
    x, y = affine[3]
    return Square(float(x - side / 2), float(height - y - side / 2), float(side))


def cut(image: Image.Image, square: Square, size: int) -> Image.Image:
    """Crop a square of an image to `size`×`size`, resampled once (Lanczos, antialiased); black outside the
    image. Raises InputError for a square of more than `MAX_SIDE` pixels a side."""
    left, top = int(np.floor(square.left)), int(np.floor(square.top))
    right = int(np.ceil(square.left + square.side))
    bottom = int(np.ceil(square.top + square.side))
    if max(right - left, bottom - top) > MAX_SIDE:
        raise InputError(
            f"the face was located wrongly, as its crop would have {right - left}x{bottom - top} pixels: "
            "crop the photo around the face"
        )
    window = image.crop((left, top, right, bottom))
    box = (
        square.left - left,
        square.top - top,
        square.left - left + square.side,
        square.top - top + square.side,
    )
    return window.resize((size, size), Image.Resampling.LANCZOS, box=box)
