"""Condition images for the head that a visitor drags, rendered quickly enough to follow the pointer."""

from functools import lru_cache
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from generators.base import Renderer, Renders
from generators.registry import BUILT_IN, open_renderer
from portraits.cameras import label_from_angles

SIDE = 96  # pixels
SAMPLES = 6  # light paths a pixel of the built-in head: noisier than the conditions, and four times as fast
MAX_YAW, MAX_PITCH = 90, 45  # degrees


class Scene(Protocol):
    """One identity, ready to be rendered from any cameras."""

    def render(self, labels: NDArray[np.float32]) -> Renders:
        """Views from EG3D labels (K, 25)."""


class LiveCamera:
    """Small condition images of a renderer's identities at whole degrees of yaw and pitch, cached."""

    def __init__(self, renderer: str) -> None:
        self.renderer = renderer
        self._lock = Lock()  # the renderers' own state is not for several threads at once
        self._scene = lru_cache(2)(self._open_scene)
        self._kept = lru_cache(4096)(self._render)

    def frame(self, yaw: float, pitch: float, identity: int) -> Image.Image:
        """The image (`SIDE`, `SIDE`) at yaw and pitch in degrees, rounded and limited to what the widget
        offers."""
        degrees = np.nan_to_num([yaw, pitch]).clip((-MAX_YAW, -MAX_PITCH), (MAX_YAW, MAX_PITCH)).round()
        with self._lock:
            return self._kept(int(degrees[0]), int(degrees[1]), max(int(identity), 0))

    def _render(self, yaw: int, pitch: int, identity: int) -> Image.Image:
        label = label_from_angles(*np.radians((yaw, pitch)).tolist())
        return Image.fromarray(self._scene(identity).render(label[None]).images[0])

    def _open_scene(self, identity: int) -> Scene:
        if self.renderer in BUILT_IN:
            from generators.parametric.renderer import SyntheticHead  # imports Mitsuba

            open_renderer(self.renderer)  # with its threads
            place, light = BUILT_IN[self.renderer]
            return SyntheticHead(SAMPLES, place, light).scene(identity, SIDE)
        return OneIdentity(open_renderer(self.renderer), identity)


class OneIdentity:
    """One identity of a renderer that keeps no scenes."""

    def __init__(self, renderer: Renderer, identity: int) -> None:
        self.renderer = renderer
        self.identity = identity

    def render(self, labels: NDArray[np.float32]) -> Renders:
        """Views from EG3D labels (K, 25)."""
        return self.renderer.render(self.identity, labels, SIDE)
