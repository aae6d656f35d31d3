"""Condition images for sources that have none: for each view another person at the same camera (3.3)."""

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from shards.renderers.base import Renderer


def render_conditions(
    renderer: Renderer, key: str, cameras: NDArray[np.float32], size: int
) -> NDArray[np.uint8]:
    """(K, S, S, 3): at each camera (K, 25) one person z_v, drawn by the sample's key and the view's
    number."""
    images = [
        renderer.render(crc32(f"{key}/{view}".encode()), camera[None], size).images[0]
        for view, camera in enumerate(cameras)
    ]
    return np.stack(images)
