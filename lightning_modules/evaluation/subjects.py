"""The subjects of an evaluation, read from shards: which view is the reference and which are to be made.

Shape letters: K views, R references, S image side.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.lists import spread
from core.seeding import numpy_generator
from portraits.cameras import angles
from portraits.pixels import Images
from shards.catalog import Catalog
from shards.fetch import ShardCache
from shards.frames import Frame, FrameSet
from shards.schema import CAMERAS, Sample, SampleError, count_views, decode, decode_cameras

Protocol = Literal["reconstruction", "novel_view", "wild"]
ReferenceView = Literal["any", "frontal"]


@dataclass(frozen=True)
class Subject:
    """One portrait and the views to be made of it: `references` (R, S, S, 3) and their cameras (R, 25),
    `truths` and `conditions` (K, S, S, 3), `masks` (K, S, S) uint8 where the shards have them, `cameras`
    (K, 25)."""

    key: str
    references: Images
    truths: Images
    conditions: Images
    cameras: NDArray[np.float32]
    masks: Images | None
    reference_cameras: NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """A subject's name, and the numbers of its frame's views: references, and those to be made."""

    key: str
    references: tuple[int, ...]
    views: tuple[int, ...]


@dataclass(frozen=True)
class Subjects:
    """What of some shards is evaluated.

    Args:
        shards: a built folder, or shards as training takes them
        protocol: novel_view makes other views from references; reconstruction makes the reference itself;
            wild is reconstruction of portraits whose only view is the photo
        split: of the shards
        frames: how many frames, evenly spaced; all by default
        views: how many views of a frame are made, at most; all by default
        references: how many portraits a subject has (Eq. 5)
        reference_view: any view by the frame's key, or those nearest to the front
        seed: of what is drawn
        cache_dir: where remote shards are kept
    """

    shards: str = "shards/built/synthetic"
    protocol: Protocol = "novel_view"
    split: Literal["train", "val", "test"] = "test"
    frames: int | None = None
    views: int | None = None
    references: int = 1
    reference_view: ReferenceView = "any"
    seed: int = 0
    cache_dir: str = "shards/cache"

    def plans(self) -> Iterator[tuple[Frame, list[Plan]]]:
        """The frames and what is made of each, in order; no image is decoded. Raises InputError where a frame
        is damaged or has too few views."""
        frames = self.open()
        for number in spread(len(frames), len(frames) if self.frames is None else self.frames):
            frame = frames.frame(number)
            with _whole(frame):
                count = count_views(frame.members)
                cameras = decode_cameras(frame.read([CAMERAS])[CAMERAS], count)
            yield frame, self._plan(frame.key, cameras)

    def keys(self) -> list[str]:
        """The subjects' names, in order. Raises InputError as `plans` does."""
        return [plan.key for _, plans in self.plans() for plan in plans]

    def read(self, keys: Collection[str]) -> Iterator[Subject]:
        """The subjects of these names, in order. Raises InputError where a frame is damaged."""
        for frame, plans in self.plans():
            wanted = [plan for plan in plans if plan.key in keys]
            if wanted:
                with _whole(frame):
                    sample = decode(frame.read(frame.members))
                yield from (_subject(sample, plan) for plan in wanted)

    def open(self) -> FrameSet:
        """The frames of the split. Raises InputError where there are none, or fewer than asked for."""
        cache = ShardCache(Path(self.cache_dir), 10**12)
        catalog = Catalog("evaluated", self.shards, cache)
        found = catalog.split(self.split)
        if not found:
            raise InputError(f"{self.shards}: it has no {self.split} shards")
        frames = FrameSet("evaluated", self.split, found, cache)
        if self.frames is not None and not 0 < self.frames <= len(frames):
            raise InputError(f"frames {self.frames}: {self.shards} has {len(frames)} of {self.split}")
        return frames

    def _plan(self, key: str, cameras: NDArray[np.float32]) -> list[Plan]:
        """What is made of a frame: one subject in novel_view, one for each view in the others."""
        order = self._order(key, cameras)
        if self.protocol != "novel_view":
            return [Plan(f"{key}-view{view:02d}", (view,), (view,)) for view in sorted(order[: self.views])]
        rest = order[self.references :]
        if not rest or (self.views is not None and len(rest) < self.views):
            raise InputError(
                f"{key}: {len(order)} views are too few for {self.references} references and"
                f" {self.views or 'some'} views to be made"
            )
        return [Plan(key, tuple(order[: self.references]), tuple(sorted(rest[: self.views])))]

    def _order(self, key: str, cameras: NDArray[np.float32]) -> list[int]:
        """The views, those first that references are taken from."""
        drawn = numpy_generator(self.seed, "evaluation", key).permutation(len(cameras)).tolist()
        if self.reference_view == "any":
            return drawn
        turned = np.abs(angles(cameras)).sum(1)
        return sorted(drawn, key=lambda view: turned[view])


@contextmanager
def _whole(frame: Frame) -> Iterator[None]:
    """A damaged frame ends the evaluation: what is left would be scored as if it were all."""
    try:
        yield
    except SampleError as error:
        raise InputError(f"{frame.path}: {frame.key}: {error}; partial data is not evaluated") from error


def _subject(sample: Sample, plan: Plan) -> Subject:
    views = list(plan.views)
    masks = None if sample.masks is None else sample.masks[views]
    return Subject(
        plan.key,
        sample.views[list(plan.references)],
        sample.views[views],
        sample.conditions[views],
        sample.cameras[views],
        masks,
        sample.cameras[list(plan.references)],
    )
