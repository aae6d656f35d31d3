"""Rendered heads with known cameras, cached per process; stand-ins for a renderer and a face detector."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from generators.base import Renders
from portraits.alignment.detection import Face, choose
from portraits.cameras import label_from_angles

# One pure colour for each of the five landmarks.
DOTS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))


class Portrait(NamedTuple):
    """A render and its camera."""

    image: Image.Image
    label: NDArray[np.float32]


@cache
def rendered_heads(side: int = 128) -> tuple[Portrait, ...]:
    """Three people at three cameras each, within 35 degrees of yaw."""
    from generators.parametric.renderer import SyntheticHead

    found = []
    for identity, tilt in ((0, -8.0), (1, 0.0), (2, 8.0)):
        cameras = np.stack([label_from_angles(*np.radians((yaw, tilt))) for yaw in (-35.0, 3.0, 25.0)])
        images = SyntheticHead(samples=6).render(identity, cameras, side).images
        found += [Portrait(Image.fromarray(i), c) for i, c in zip(images, cameras, strict=True)]
    return tuple(found)


class FlatRenderer:
    """Renders everybody as one colour."""

    name = "flat"

    def render(self, identity: int, labels: ArrayLike, size: int) -> Renders:
        """Flat images, the colour by identity."""
        count = len(np.atleast_2d(labels))
        colour = np.random.default_rng(identity).integers(0, 256, 3, dtype=np.uint8)
        images = np.broadcast_to(colour, (count, size, size, 3)).copy()
        return Renders(images, np.full((count, size, size), 255, np.uint8))


class DotDetector:
    """Finds the five coloured dots that stand for a face's landmarks."""

    def faces(self, image: Image.Image) -> list[Face]:
        """One face, or none where a dot is missing."""
        points = find_dots(np.asarray(image))
        if points is None:
            return []
        box = np.concatenate([points.min(0), points.max(0)])
        return [Face(box, points, 1.0)]

    def largest(self, image: Image.Image) -> Face | None:
        """The face, or None."""
        return choose(self.faces(image))


def find_dots(image: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Centres (5, 2) of the dots in an image (H, W, 3), in pixels with integer pixel centres, or None."""
    points = []
    for colour in DOTS:
        distance = np.abs(image.astype(np.int16) - np.array(colour, np.int16)).sum(2)
        rows, columns = np.nonzero(distance < 220)
        weight = 1 - distance[rows, columns] / 220
        if weight.sum() < 2:
            return None
        points.append(((weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()))
    return np.array(points)
