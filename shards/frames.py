"""Random access to the frames of one split of one source."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from core.errors import InputError
from shards.catalog import Shard, usable_views
from shards.fetch import ShardCache
from shards.index import ShardIndex, Span
from shards.reader import ShardReader


@dataclass(frozen=True)
class Frame:
    """The location of one frame in its shard; its content is read on demand."""

    key: str
    members: dict[str, Span]
    path: Path
    reader: ShardReader

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of the named members. Raises SampleError for one that is missing or truncated."""
        return self.reader.read(self.path, self.members, names)


class FrameSet:
    """The frames 0 … len - 1 of one split of one source, in the order of the shards.

    It can be pickled to worker processes: each opens its own files, and indexes remote shards on first use.
    """

    def __init__(self, name: str, split: str, shards: Sequence[Shard], cache: ShardCache) -> None:
        self.name = name
        self.split = split
        self.shards = tuple(shards)
        self.counts = tuple(shard.samples for shard in shards)
        self._ends = list(accumulate(self.counts))
        self._cache = cache
        self._reader = ShardReader()
        self._indices: dict[str, ShardIndex] = {s.url: s.index for s in shards if s.index is not None}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def frame(self, number: int) -> Frame:
        """Frame `number`. Raises InputError if its shard cannot be fetched or read."""
        position = bisect_right(self._ends, number)
        shard = self.shards[position]
        record = shard.record
        path = self._cache.local(shard.url, *((record.bytes, record.sha256) if record else ()))
        index = self._indices.get(shard.url) or self._scan(shard, path)
        sample = number - (self._ends[position] - shard.samples)
        return Frame(index.keys[sample], index.members(sample), path, self._reader)

    def unusable(self, views: int) -> list[str]:
        """The keys of indexed frames that are incomplete or have fewer than `views` views."""
        keys: list[str] = []
        for index in self._indices.values():
            enough = [usable_views(layout) >= views for layout in index.layouts]
            keys += [key for key, layout in zip(index.keys, index.layout, strict=True) if not enough[layout]]
        return keys

    def _scan(self, shard: Shard, path: Path) -> ShardIndex:
        index = ShardIndex.scan(path)
        if len(index) != shard.samples:
            raise InputError(
                f"{shard.url}: {len(index)} samples, not {shard.samples} (its manifest): download it again"
            )
        self._indices[shard.url] = index
        return index
