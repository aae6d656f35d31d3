"""The configured data sources, checked against the settings with which they will be read."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.errors import InputError
from core.lists import spread
from datamodules.order import apportion
from datamodules.reading import ViewReader
from shards.catalog import Catalog
from shards.fetch import ShardCache
from shards.frames import FrameSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceConfig:
    """One source of frames.

    Args:
        urls: a built folder, or shards: paths, globs, brace patterns, URLs
        weight: how often its frames are streamed, relative to the other sources
    """

    urls: str | list[str]
    weight: float = 1.0


@dataclass(frozen=True)
class Sources:
    """The frames of one split, for each source that has any, and the weights of those sources."""

    frames: tuple[FrameSet, ...]
    weights: tuple[float, ...]

    def spread(self, budget: int | None) -> list[tuple[FrameSet, int]]:
        """At most `budget` frames (all by default) in a fixed order, divided among the sources by weight and
        evenly spaced in each."""
        places = [len(frames) for frames in self.frames]
        if budget is not None and budget < sum(places):
            places = _divide(budget, self.weights, places)
        return [
            (frames, number)
            for frames, count in zip(self.frames, places, strict=True)
            for number in spread(len(frames), count)
        ]


def _divide(budget: int, weights: Sequence[float], limits: Sequence[int]) -> list[int]:
    """Divide `budget` by weight; what exceeds the limit of a source goes to the others."""
    counts = [0] * len(limits)
    while left := budget - sum(counts):
        open_ = [i for i, limit in enumerate(limits) if counts[i] < limit]
        for i, share in zip(open_, apportion(left, [weights[i] for i in open_]), strict=True):
            counts[i] = min(limits[i], counts[i] + share)
    return counts


class SourceCatalogs:
    """The catalogs of the sources of a configuration, each opened once."""

    def __init__(self, configs: Mapping[str, SourceConfig], cache: ShardCache) -> None:
        if not configs:
            raise InputError("no data sources are configured: name at least one under data.sources")
        for name, config in configs.items():
            if not config.weight > 0:
                raise InputError(
                    f"source {name}: its weight is {config.weight}, not positive: leave it out instead"
                )
        self._configs = dict(configs)
        self._cache = cache
        self._catalogs = {name: Catalog(name, config.urls, cache) for name, config in configs.items()}

    def open(self, split: str, reader: ViewReader, max_skipped_share: float) -> Sources:
        """The frames of a split.

        Raises InputError if images have another size than `reader` reads, or more than `max_skipped_share`
        of the frames are damaged or have too few views.
        """
        frames, weights = [], []
        for name, catalog in self._catalogs.items():
            shards = catalog.split(split)
            if shards:
                frames.append(FrameSet(name, split, shards, self._cache, keep_indices=True))
                weights.append(self._configs[name].weight)
                _check_size(frames[-1], reader)
                _check_views(frames[-1], reader, max_skipped_share)
        return Sources(tuple(frames), tuple(weights))

    def require(self, split: str, reader: ViewReader, max_skipped_share: float) -> Sources:
        """As `open`, but raises InputError also where a source has no frames of the split."""
        for name, catalog in self._catalogs.items():
            if not catalog.split(split):
                found = sorted({shard.split for shard in catalog.shards})
                urls = self._configs[name].urls
                raise InputError(f"source {name}: no {split} shards among {urls} (only {', '.join(found)})")
        return self.open(split, reader, max_skipped_share)


def _check_size(frames: FrameSet, reader: ViewReader) -> None:
    for shard in frames.shards:
        if shard.image_size != reader.image_size:
            side = shard.image_size
            raise InputError(
                f"source {frames.name}: {shard.url} has {side}x{side} images, but image_size is"
                f" {reader.image_size}: change that, or build shards of that size"
            )


def _check_views(frames: FrameSet, reader: ViewReader, max_skipped_share: float) -> None:
    fewest = min(shard.views[0] for shard in frames.shards)
    most = max(shard.views[1] for shard in frames.shards)
    if most < reader.views:
        raise InputError(
            f"source {frames.name}: its frames have {most} views, {reader.references} references and"
            f" {reader.targets} targets are needed: set fewer, or build with more views"
        )
    unusable = frames.unusable(reader.views)
    if len(unusable) > max_skipped_share * len(frames):
        raise InputError(
            f"source {frames.name}: {len(unusable)} of {len(frames)} {frames.split} frames are damaged or"
            f" have fewer than {reader.views} views, e.g. {unusable[0]} (allowed: {max_skipped_share:.1%})"
        )
    if unusable:
        log.warning("source %s: %d frames are unusable, e.g. %s", frames.name, len(unusable), unusable[0])
    elif fewest < reader.views:
        log.warning(
            "source %s: some frames have only %d views, %d are drawn: those are skipped when they are read",
            *(frames.name, fewest, reader.views),
        )
