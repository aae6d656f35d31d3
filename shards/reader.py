"""Reading of samples' members from shards by byte offset."""

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError
from shards.index import Span
from shards.schema import SampleError

MAX_OPEN_FILES = 64
MAX_MEMBER_BYTES = 64 << 20  # far above any member of the schema; bounds memory for damaged headers


class ShardReader:
    """Reads byte ranges of shard files and keeps at most `max_open` of them open.

    Every process opens its own files, also after a fork or when the reader was pickled.
    """

    def __init__(self, max_open: int = MAX_OPEN_FILES) -> None:
        self._max_open = max_open
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._process = os.getpid()

    def read(
        self, path: Path, members: Mapping[str, Span], names: Iterable[str] | None = None
    ) -> dict[str, bytes]:
        """The content of the named members (all by default).

        Raises SampleError if one is missing or truncated, and InputError if the shard cannot."""
        chosen = members if names is None else names
        return {name: self._read(path, name, members.get(name)) for name in chosen}

    def close(self) -> None:
        """Close every file."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _read(self, path: Path, name: str, span: Span | None) -> bytes:
        if span is None:
            raise SampleError(f"it has no {name}")
        offset, size = span
        if size > MAX_MEMBER_BYTES:
            raise SampleError(f"{name} has {size} bytes")
        try:
            data = os.pread(self._open(path), size, offset)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise SampleError(f"{name} is truncated")
        return data

    def _open(self, path: Path) -> int:
        if self._process != os.getpid():
            self._files, self._process = OrderedDict(), os.getpid()
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        if len(self._files) >= self._max_open:
            os.close(self._files.popitem(last=False)[1])
        self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._files[path]

    def __getstate__(self) -> dict[str, Any]:
        return {"_max_open": self._max_open, "_files": OrderedDict(), "_process": -1}

    def __del__(self) -> None:
        if self._process == os.getpid():
            self.close()


def read_members(path: Path, members: Mapping[str, Span]) -> dict[str, bytes]:
    """The content of all members of one sample."""
    reader = ShardReader(1)
    try:
        return reader.read(path, members)
    finally:
        reader.close()
