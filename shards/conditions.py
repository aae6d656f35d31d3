"""Rendered condition images: for each view, another person at the same camera (section 3.3).

F frames, K views, S image side.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from core.workers import ONLY_WORKER, Worker, ignore
from generators.base import Renderer
from generators.registry import RendererChoice, open_renderer, renderer_processes
from portraits.pixels import Images
from shards.schema import Sample, SampleMeta
from shards.skips import Skip
from shards.source import Source, Unit

CONDITION_FRAMES = 16
Part = TypeVar("Part")


@dataclass(frozen=True)
class Portrait:
    """A frame without its conditions: views (K, S, S, 3) and masks (K, S, S) uint8, cameras (K, 25)."""

    meta: SampleMeta
    views: Images
    cameras: NDArray[np.float32]
    masks: Images | None = None

    @classmethod
    def of(
        cls,
        meta: SampleMeta,
        views: Iterable[Images],
        cameras: Iterable[NDArray[np.float32]],
        masks: Iterable[Images | None] = (),
    ) -> Self:
        """The frame of K `views`, each (S, S, 3), at K `cameras`, each (25,).

        `masks`, each (S, S), are kept if every view has one.
        """
        images = np.stack(list(views))
        given = [mask for mask in masks if mask is not None]
        return cls(
            meta, images, np.stack(list(cameras)), np.stack(given) if len(given) == len(images) else None
        )


class RenderedConditions(Source):
    """Base class of the sources whose condition images are rendered.

    `conditions` is the renderer, `device` that of a generator. The renderer is opened when a process captures
    its first frame. The frames of a unit share the people of their conditions, view by view, so that each
    person is built once and seen by many cameras.
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

    @abstractmethod
    def portraits(self, unit: Unit, worker: Worker) -> list[Portrait | Skip]:
        """The frames of a unit without conditions, with skips for what cannot be used; see `capture`."""

    def capture(self, unit: Unit, worker: Worker = ONLY_WORKER) -> list[Sample | Skip]:
        """The frames of a unit with rendered conditions, with skips for what cannot be used."""
        results = self.portraits(unit, worker)
        frames = [result for result in results if isinstance(result, Portrait)]
        if not frames:
            return [result for result in results if isinstance(result, Skip)]
        conditions = iter(render_conditions(self.renderer(worker), frames, worker.report))
        return [
            result
            if isinstance(result, Skip)
            else Sample(result.meta, result.views, next(conditions), result.cameras, result.masks)
            for result in results
        ]


def render_conditions(
    renderer: Renderer, frames: Sequence[Portrait], report: Callable[[float], None] = ignore
) -> list[Images]:
    """Condition images (K, S, S, 3) of each of F frames, at its K cameras. `report` is called with the share
    of the work that is done.

    Each view of a frame shows a different person, whose number is a hash of the first frame's key and the
    view's number: the same person in that view of all frames.
    """
    size, cast = frames[0].views.shape[1], frames[0].meta.key
    conditions = [np.empty_like(frame.views) for frame in frames]
    most = max(len(frame.views) for frame in frames)
    for view in range(most):
        seen = [number for number, frame in enumerate(frames) if view < len(frame.views)]
        cameras = np.stack([frames[number].cameras[view] for number in seen])
        images = renderer.render(crc32(f"{cast}/{view}".encode()), cameras, size).images
        for number, image in zip(seen, images, strict=True):
            conditions[number][view] = image
        report((view + 1) / (most + 1))  # the rest is encoding
    return conditions


def in_units(
    parts: Iterable[Part], frames: Callable[[Part], int], split: Callable[[Part], str], least: int
) -> list[tuple[Part, ...]]:
    """Units of consecutive parts of one split, each as few as have `least` frames together."""
    units: list[tuple[Part, ...]] = []
    for part in parts:
        last = units[-1] if units else ()
        if last and split(last[0]) == split(part) and sum(map(frames, last)) < least:
            units[-1] = (*last, part)
        else:
            units.append((part,))
    return units
