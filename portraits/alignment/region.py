"""Rotated squares of an image: the upright regions that face networks take as input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portraits.geometry import similarity

Array = NDArray[np.floating]

MOST_REDUCED = 2.0  # images are halved until the scale from image to output pixels is below this


@dataclass(frozen=True)
class Region:
    """A square in pixels of an image (pixel centres are whole numbers).

    Args:
        centre: its middle (2,)
        side: its side
        roll: rotation of its horizontal axis in the image, radians, clockwise on the screen
    """

    centre: Array
    side: float
    roll: float = 0.0

    @property
    def axes(self) -> Array:
        """Its horizontal and vertical unit vectors in the image, as rows (2, 2)."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        return np.array([[cos, sin], [-sin, cos]])

    def cut(self, image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """Crop the region from an image (H, W, 3) to `size`×`size` pixels, antialiased; black outside the
        image."""
        import cv2

        centre, side = self.centre, self.side
        while side >= MOST_REDUCED * size and min(image.shape[:2]) > 1:
            height, width = (length // 2 for length in image.shape[:2])
            even = image[: 2 * height, : 2 * width]
            image = np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            centre, side = (centre - 0.5) / 2, side / 2
        linear = self.axes.T * (side / size)
        shift = centre - linear @ np.full(2, (size - 1) / 2)
        warp = np.concatenate([linear, shift[:, None]], axis=1)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(image, warp, (size, size), flags=flags), np.uint8)

    def to_image(self, points: ArrayLike) -> Array:
        """Convert points (N, 2), normalised to the region, to pixels of the image."""
        return self.centre + (np.asarray(points, dtype=np.float64) - 0.5) * self.side @ self.axes

    @classmethod
    def around(cls, points: ArrayLike, horizontal: ArrayLike, margin: float) -> "Region":
        """The region around points (N, 2) with its horizontal axis along `horizontal` (2,) and a side of
        `margin` times the larger extent of the points."""
        x, y = np.asarray(horizontal, dtype=np.float64)
        turned = cls(np.zeros(2), 1.0, float(np.arctan2(y, x)))
        seen = np.asarray(points, dtype=np.float64) @ turned.axes.T
        low, high = seen.min(0), seen.max(0)
        return cls((low + high) / 2 @ turned.axes, float(margin * (high - low).max()), turned.roll)

    @classmethod
    def matching(cls, points: ArrayLike, template: ArrayLike, size: int) -> "Region":
        """The region whose crop at `size` pixels maps `points` (N, 2) of the image to `template` (N, 2),
        pixels of the crop, in the least-squares sense."""
        scale, rotation, shift = similarity(np.asarray(points, np.float64), np.asarray(template, np.float64))
        centre = ((size - 1) / 2 - shift) @ rotation / scale
        return cls(centre, size / scale, float(np.arctan2(rotation[0, 1], rotation[0, 0])))
