"""Condition images for sources that have none: for each view another person at the same camera (3.3)."""

from functools import cached_property
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from generators.base import Renderer
from generators.registry import RendererChoice, open_renderer, renderer_processes


class RenderedConditions:
    """What sources have in common whose conditions are drawn by the renderer named `conditions`: it is opened
    when the first frame needs it, in the process that does."""

    conditions: RendererChoice
    device: str | None = None

    @property
    def processes(self) -> int | None:
        """How many of a build's processes suit the renderer; None for one a core."""
        return renderer_processes(self.conditions, self.device)

    def condition_images(self, key: str, cameras: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
        """The conditions (K, S, S, 3) of the sample `key` at its cameras (K, 25)."""
        return render_conditions(self._renderer, key, cameras, size)

    @cached_property
    def _renderer(self) -> Renderer:
        return open_renderer(self.conditions, self.device)


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
