"""Rendered condition images: for each view, another person at the same camera (section 3.3).

K views, S image side.
"""

from collections.abc import Iterable
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from core.workers import ONLY_WORKER, Worker
from generators.base import Renderer
from generators.registry import RendererChoice, open_renderer, renderer_processes
from portraits.pixels import Images
from shards.schema import Sample, SampleMeta
from shards.source import Source


class RenderedConditions(Source):
    """Base class of the sources whose condition images are rendered.

    `conditions` is the renderer, `device` that of a generator. The renderer is opened when a process captures
    its first frame.
    """

    conditions: RendererChoice
    device: str | None = None
    _renderer: Renderer | None = None

    @property
    def processes(self) -> int | None:
        """The suitable number of processes for the renderer; None for one per core."""
        return renderer_processes(self.conditions, self.device)

    def renderer(self, worker: Worker = ONLY_WORKER) -> Renderer:
        """The renderer, opened for `worker` on the first call."""
        if self._renderer is None:
            self._renderer = open_renderer(self.conditions, self.device, worker)
        return self._renderer

    def sample(
        self,
        meta: SampleMeta,
        views: Iterable[Images],
        cameras: Iterable[NDArray[np.float32]],
        worker: Worker,
        masks: Iterable[Images | None] = (),
    ) -> Sample:
        """Build the sample of K `views`, each (S, S, 3), at K `cameras`, each (25,), with rendered
        conditions.

        `masks`, each (S, S), are stored if every view has one.
        """
        images, labels = np.stack(list(views)), np.stack(list(cameras))
        given = [mask for mask in masks if mask is not None]
        return Sample(
            meta=meta,
            views=images,
            conditions=render_conditions(self.renderer(worker), meta.key, labels, images.shape[1]),
            cameras=labels,
            masks=np.stack(given) if len(given) == len(images) else None,
        )


def render_conditions(renderer: Renderer, key: str, cameras: NDArray[np.float32], size: int) -> Images:
    """Condition images (K, S, S, 3) of the sample `key` at its cameras (K, 25).

    Each view shows a different person, whose number is a hash of the key and the view's number.
    """
    images = [
        renderer.render(crc32(f"{key}/{view}".encode()), camera[None], size).images[0]
        for view, camera in enumerate(cameras)
    ]
    return np.stack(images)
