"""The byte offsets of the members of all samples in a shard, read from the tar's headers."""

import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from shards.writer import BLOCK

Span = tuple[int, int]


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard; a sample is a run of members `<key>.<name>` with one key, as in WebDataset.

    The members of sample i have the names `layouts[layout[i]]`; their byte offsets and sizes are the rows of
    `spans` (M, 2) from `start[i]`. As arrays instead of objects, a million members need 16 MB, which forked
    worker processes share.
    """

    keys: list[str]
    layouts: list[tuple[str, ...]]
    layout: NDArray[np.int32]
    start: NDArray[np.int64]
    spans: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def consistent(self) -> bool:
        """Whether its arrays fit each other; not so for one from a damaged file."""
        count = len(self.keys)
        if not (self.layout.shape == self.start.shape == (count,) and self.spans.shape[1:] == (2,)):
            return False
        if count and not 0 <= self.layout.min() <= self.layout.max() < len(self.layouts):
            return False
        widths = np.array([len(names) for names in self.layouts], dtype=np.int64)
        return bool((self.start >= 0).all() and (self.start + widths[self.layout] <= len(self.spans)).all())

    def members(self, sample: int) -> dict[str, Span]:
        """The byte offset and size of each member of a sample, by name."""
        names = self.layouts[self.layout[sample]]
        start = self.start[sample]
        rows = self.spans[start : start + len(names)].tolist()
        return {name: (offset, size) for name, (offset, size) in zip(names, rows, strict=True)}

    @classmethod
    def scan(cls, path: Path) -> Self:
        """Index a local shard. Raises InputError if it is not a complete, uncompressed tar of samples."""
        try:
            with tarfile.open(path, "r:") as tar:
                return cls(**_arrays(_members(tar, path), path))
        except (tarfile.TarError, EOFError) as error:
            raise InputError(
                f"{path}: not a complete plain tar ({error}); fetch or build it again"
            ) from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


Entry = tuple[str, str, int, int]


def _members(tar: tarfile.TarFile, path: Path) -> list[Entry]:
    """(key, name, offset, size) of every regular file whose name has a stem and an extension."""
    found: list[Entry] = []
    end = 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all headers in memory otherwise
        if member.size < 0:
            raise tarfile.ReadError("a member has a negative size")
        end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isfile() else 0)
        folder, _, base = member.name.rpartition("/")
        stem, dot, name = base.partition(".")
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and stem and dot:
            found.append(
                (f"{folder}/{stem}" if folder else stem, name.lower(), member.offset_data, member.size)
            )
    with path.open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError("it is truncated")
    return found


def _arrays(entries: list[Entry], path: Path) -> dict[str, Any]:
    """The fields of a ShardIndex over these members."""
    keys: list[str] = []
    names: list[list[str]] = []
    for key, name, _, _ in entries:
        if not keys or keys[-1] != key:
            keys.append(key)
            names.append([])
        names[-1].append(name)
    _unique(keys, names, path)
    layouts: dict[tuple[str, ...], int] = {}
    layout = [layouts.setdefault(tuple(group), len(layouts)) for group in names]
    counts = np.array([len(group) for group in names], dtype=np.int64)
    return {
        "keys": keys,
        "layouts": list(layouts),
        "layout": np.array(layout, dtype=np.int32),
        "start": np.cumsum(counts) - counts,
        "spans": np.array([entry[2:] for entry in entries], dtype=np.int64).reshape(-1, 2),
    }


def _unique(keys: list[str], names: list[list[str]], path: Path) -> None:
    if len(set(keys)) != len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise InputError(f"{path}: the sample {twice} is in it twice or in pieces")
    for key, group in zip(keys, names, strict=True):
        if len(set(group)) != len(group):
            raise InputError(f"{path}: the sample {key} has a member twice")
