"""Random access to the frames of one split of one source."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from core.errors import InputError
from shards.catalog import Shard, usable_views
from shards.fetch import ShardCache, is_remote
from shards.index import ShardIndex, Span
from shards.index_cache import IndexCache
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

    Shards that a manifest describes are indexed on first use, in the order in which they are read; with
    `keep_indices` the indices are kept in the cache's folder. It can be pickled to worker processes: each
    opens its own files.
    """

    def __init__(
        self, name: str, split: str, shards: Sequence[Shard], cache: ShardCache, keep_indices: bool = False
    ) -> None:
        self.name = name
        self.split = split
        self.shards = tuple(shards)
        self.counts = tuple(shard.samples for shard in shards)
        self._ends = list(accumulate(self.counts))
        self._cache = cache
        self._reader = ShardReader()
        self._indices = IndexCache(cache.folder / "indices" if keep_indices else None)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def frame(self, number: int) -> Frame:
        """Frame `number`. Raises InputError if its shard cannot be fetched or read."""
        position = bisect_right(self._ends, number)
        shard = self.shards[position]
        record = shard.record
        path = self._cache.local(shard.url, *((record.bytes, record.sha256) if record else ()))
        index = shard.index or self._indices.recent(shard.url) or self._index(shard, path)
        sample = number - (self._ends[position] - shard.samples)
        return Frame(index.keys[sample], index.members(sample), path, self._reader)

    def unusable(self, views: int) -> list[str]:
        """The keys of frames that are incomplete or have fewer than `views` views, in the shards that no
        manifest describes."""
        keys: list[str] = []
        for index in (shard.index for shard in self.shards if shard.index is not None):
            enough = [usable_views(layout) >= views for layout in index.layouts]
            keys += [key for key, layout in zip(index.keys, index.layout, strict=True) if not enough[layout]]
        return keys

    def _index(self, shard: Shard, path: Path) -> ShardIndex:
        """The index of a shard that its manifest describes. Raises InputError if they differ."""
        index = self._indices.open(shard.url, path, _state(shard, path))
        if len(index) != shard.samples:
            again = "download" if is_remote(shard.url) else "copy or build"
            raise InputError(
                f"{shard.url}: {len(index)} samples, not {shard.samples} (its manifest): {again} it again"
            )
        return index


def _state(shard: Shard, path: Path) -> str:
    """What changes when a shard does: for a remote one its checksum, for a local one its size and time."""
    if is_remote(shard.url) and shard.record is not None:
        return shard.record.sha256
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return f"{status.st_size} {status.st_mtime_ns}"
