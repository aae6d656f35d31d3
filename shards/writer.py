"""Writing of tar shards in WebDataset's layout; the same samples always give the same bytes."""

import io
import tarfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from core.files import checksum, whole_file
from shards.manifest import ShardRecord

Members = Mapping[str, bytes]

BLOCK = 512


class SampleTar:
    """A tar of samples, with members `<key>.<name>` without times and owners.

    It is written atomically: `path` appears when the `with` block ends without an exception.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as stack:
            partial = stack.enter_context(whole_file(path))
            self._tar = stack.enter_context(tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT))
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def add(self, key: str, members: Members) -> None:
        """Append one sample."""
        for name, data in members.items():
            header = tarfile.TarInfo(f"{key}.{name}")
            header.size = len(data)
            header.mode = 0o444
            self._tar.addfile(header, io.BytesIO(data))


class ShardPacker:
    """Packs the samples of one split into `<split>-000000.tar`, `<split>-000001.tar` … of at most `max_bytes`
    each; a larger sample gets its own shard."""

    def __init__(self, folder: Path, split: str, max_bytes: int) -> None:
        self._folder, self._split, self._max_bytes = folder, split, max_bytes
        self._tar: SampleTar | None = None
        self._bytes = 0
        self._samples = 0
        self.records: list[ShardRecord] = []

    def add(self, key: str, members: Members) -> None:
        """Append one sample, to a new shard if the current one is full."""
        size = sum(tar_size(len(data)) for data in members.values())
        if self._tar is not None and self._bytes + size > self._max_bytes:
            self.close()
        if self._tar is None:
            self._tar = SampleTar(self._folder / self._name)
            self._bytes, self._samples = 2 * BLOCK, 0
        self._tar.add(key, members)
        self._bytes += size
        self._samples += 1

    def close(self) -> None:
        """Complete the open shard, if there is one, and record it."""
        if self._tar is None:
            return
        name = self._name
        self._tar.__exit__(None, None, None)
        self._tar = None
        path = self._folder / name
        self.records.append(
            ShardRecord(name, self._split, self._samples, path.stat().st_size, checksum(path))
        )

    @property
    def _name(self) -> str:
        return f"{self._split}-{len(self.records):06d}.tar"


def tar_size(data_bytes: int) -> int:
    """The size in a tar of a member of `data_bytes`: its header and its data in whole blocks."""
    return BLOCK + -(-data_bytes // BLOCK) * BLOCK
