"""The subjects of an evaluation, read from shards: their references, and the views to predict.

Shape letters: K views, R references, S image side.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core import fingerprints
from core.errors import InputError
from core.lists import spread
from core.seeding import numpy_generator
from portraits.cameras import angles
from portraits.pixels import Images
from portraits.predictions import Protocol
from portraits.segmentation import NAME as SEGMENTATION
from portraits.segmentation import check_segmentation, foreground_masks, over_white
from shards.catalog import Catalog, Shard
from shards.fetch import ShardCache
from shards.frames import Frame, FrameSet
from shards.schema import CAMERAS, Sample, SampleError, Split, count_views, decode, decode_cameras, mask_name

Background = Literal["keep", "remove"]
CACHE_BYTES = 10**12


@dataclass(frozen=True)
class SubjectSettings:
    """Settings of the subjects.

    Args:
        shards: a built folder, or shards as in training: paths, globs, brace patterns and URLs; the URL of a
            built folder ends in /
        protocol: novel_view predicts other views than the references; reconstruction predicts the reference
            itself; wild is reconstruction of portraits with a single view
        split: split of the shards
        frames: number of frames, evenly spaced; all by default
        views: largest number of predicted views of a frame; all by default
        background: keep it, or replace it by white in references and truths (Table 3), with the masks in the
            shards, or those of a segmentation network if there are none
        references: number of references of a subject (Eq. 5)
        reference_view: `any` draws them at random, seeded by the frame's key; `frontal` uses the most frontal
            views
        seed: seed of random draws
        cache_dir: folder for copies of remote shards
    """

    shards: str = "shards/built/synthetic"
    protocol: Protocol = "novel_view"
    split: Split = "test"
    frames: int | None = None
    views: int | None = None
    background: Background = "keep"
    references: int = 1
    reference_view: Literal["any", "frontal"] = "any"
    seed: int = 0
    cache_dir: str = "shards/cache"


@dataclass(frozen=True)
class Subject:
    """One subject: `references` (R, S, S, 3) uint8 and their cameras (R, 25); `truths` and `conditions` (K,
    S, S, 3) uint8 of the views to predict, and their `cameras` (K, 25). `masks` (K, S, S) of the truths and
    `reference_masks` (R, S, S), uint8, are None if they are neither in the shards nor computed.
    """

    key: str
    references: Images
    truths: Images
    conditions: Images
    cameras: NDArray[np.float32]
    masks: Images | None
    reference_cameras: NDArray[np.float32]
    reference_masks: Images | None = None


@dataclass(frozen=True)
class SubjectViews:
    """A subject's name, the number of its frame, and the frame's views that are references and views to
    predict."""

    key: str
    frame: int
    references: tuple[int, ...]
    views: tuple[int, ...]


@dataclass(frozen=True)
class SubjectSet:
    """The subjects of an evaluation, whose images are decoded on demand. `image_size` is S; `masks` is
    whether all frames have foreground masks; `fingerprint` is that of the shards' content; `segment` is
    whether missing masks are computed."""

    frames: FrameSet
    subjects: tuple[SubjectViews, ...]
    image_size: int
    masks: bool
    fingerprint: str
    background: Background = "keep"
    segment: bool = False

    @property
    def keys(self) -> list[str]:
        """The subjects' names, in order."""
        return [subject.key for subject in self.subjects]

    @property
    def masks_from(self) -> str | None:
        """The name of the network that computes masks; None if it is not used."""
        return SEGMENTATION if self.segment else None

    def read(self, keys: Collection[str]) -> Iterator[Subject]:
        """Read the subjects of these names, in order. Raises InputError if a frame is damaged."""
        opened: tuple[int, Sample] | None = None
        for subject in self.subjects:
            if subject.key not in keys:
                continue
            if opened is None or opened[0] != subject.frame:
                frame = self.frames.frame(subject.frame)
                with _undamaged(frame):
                    opened = subject.frame, decode(frame.read(frame.members))
            found = _subject(opened[1], subject)
            if self.segment and found.masks is None:
                found = with_masks(found)
            yield without_background(found) if self.background == "remove" else found


def find_subjects(settings: SubjectSettings) -> SubjectSet:
    """Find the subjects for these settings. Reads cameras, but no images.

    Raises InputError if there are no such shards or fewer frames than requested, or if a frame is damaged or
    has too few views.
    """
    cache = ShardCache(Path(settings.cache_dir), CACHE_BYTES)
    frames = _open_frames(settings, cache)
    count = len(frames) if settings.frames is None else settings.frames
    subjects: list[SubjectViews] = []
    masks = True
    for number in spread(len(frames), count):
        frame = frames.frame(number)
        with _undamaged(frame):
            views = count_views(frame.members)
            cameras = decode_cameras(frame.read([CAMERAS])[CAMERAS], views)
        masks = masks and mask_name(0) in frame.members
        subjects += _choose_views(settings, number, frame.key, cameras)
    size, contents = frames.shards[0].image_size, [_content(shard, cache) for shard in frames.shards]
    remove = settings.background == "remove"
    if remove and not masks:
        check_segmentation()
    return SubjectSet(
        frames,
        tuple(subjects),
        size,
        masks,
        fingerprints.of_settings(contents),
        settings.background,
        segment=remove and not masks,
    )


def with_masks(subject: Subject) -> Subject:
    """The subject with masks of a segmentation network. Raises InputError if the network is not available."""
    return replace(
        subject,
        masks=foreground_masks(subject.truths),
        reference_masks=foreground_masks(subject.references),
    )


def without_background(subject: Subject) -> Subject:
    """The subject with references and truths composited over white by its masks."""
    if subject.masks is None or subject.reference_masks is None:
        raise InputError(f"{subject.key}: it has no masks to remove the background with")
    return replace(
        subject,
        references=over_white(subject.references, subject.reference_masks),
        truths=over_white(subject.truths, subject.masks),
    )


def _content(shard: Shard, cache: ShardCache) -> str:
    """An identifier of a shard's content: its checksum in the manifest, or the fingerprint of the file if
    there is no manifest."""
    record = shard.record
    return record.sha256 if record is not None else fingerprints.of_file(cache.local(shard.url))


def _open_frames(settings: SubjectSettings, cache: ShardCache) -> FrameSet:
    for name, least in (("views", 1), ("references", 0), ("seed", 0)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise InputError(f"subjects.{name} {value}: give {least} or more")
    shards = Catalog("evaluated", settings.shards, cache).split(settings.split)
    if not shards:
        raise InputError(f"{settings.shards}: it has no {settings.split} shards")
    frames = FrameSet("evaluated", settings.split, shards, cache)
    if settings.frames is not None and not 0 < settings.frames <= len(frames):
        raise InputError(f"frames {settings.frames}: {settings.shards} has {len(frames)} of {settings.split}")
    return frames


def _choose_views(
    settings: SubjectSettings, number: int, key: str, cameras: NDArray[np.float32]
) -> list[SubjectViews]:
    """The subjects of a frame: one for the protocol novel_view, otherwise one for each view."""
    order = _view_order(settings, key, cameras)
    if settings.protocol != "novel_view":
        chosen = sorted(order[: settings.views])
        return [SubjectViews(f"{key}-view{view:02d}", number, (view,), (view,)) for view in chosen]
    rest = order[settings.references :]
    if not rest or (settings.views is not None and len(rest) < settings.views):
        raise InputError(
            f"{key}: {len(order)} views are too few for {settings.references} references and"
            f" {settings.views or 'some'} views to predict"
        )
    references = tuple(order[: settings.references])
    return [SubjectViews(key, number, references, tuple(sorted(rest[: settings.views])))]


def _view_order(settings: SubjectSettings, key: str, cameras: NDArray[np.float32]) -> list[int]:
    """The order of a frame's views; the first ones are references."""
    shuffled = numpy_generator(settings.seed, "evaluation", key).permutation(len(cameras)).tolist()
    if settings.reference_view == "any":
        return shuffled
    turned = np.abs(angles(cameras)).sum(1)
    return sorted(shuffled, key=lambda view: turned[view])


@contextmanager
def _undamaged(frame: Frame) -> Iterator[None]:
    """Raise InputError for a damaged frame, as scores over the rest could be mistaken for scores over all."""
    try:
        yield
    except SampleError as error:
        raise InputError(f"{frame.path}: {frame.key}: {error}; partial data is not evaluated") from error


def _subject(sample: Sample, subject: SubjectViews) -> Subject:
    views, references = list(subject.views), list(subject.references)
    return Subject(
        subject.key,
        sample.views[references],
        sample.views[views],
        sample.conditions[views],
        sample.cameras[views],
        None if sample.masks is None else sample.masks[views],
        sample.cameras[references],
        None if sample.masks is None else sample.masks[references],
    )
