"""Fingerprints: short names for weights, files and settings that differ whenever the content does.

Whatever is kept for later (trained parts, cached latents, predictions, inversions) records the fingerprints
of what it was made from, and is used again only where they are the same.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError
from core.files import checksum

if TYPE_CHECKING:  # torch takes seconds to import, and only `of_tensors` is given tensors
    from torch import Tensor

DIGITS = 16
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz")
SETTING_SUFFIXES = (".json", ".yaml", ".txt")


def of_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """The fingerprint of a state dict: of all names, shapes and values, rounded to half precision.

    Weights have the same fingerprint in full precision and exported in half precision.
    """
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:DIGITS]


def of_settings(values: Any) -> str:
    """The fingerprint of values that JSON can hold, whatever the order of their keys. Paths count by name."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def of_file(path: Path) -> str:
    """The fingerprint of a file's bytes, read once per process for each size and time of modification."""
    status = path.stat()
    return _of_file(path.resolve(), status.st_size, status.st_mtime_ns)


def of_folder(folder: Path) -> str:
    """The fingerprint of a model or data folder: of all weights and settings below it, with their names.

    Weights are files ending in `WEIGHT_SUFFIXES`, settings in `SETTING_SUFFIXES`; pictures and notes do not
    count. Links are followed, as a part of a model may be one to a hub's cache. Raises InputError where there
    is no such folder or it has neither.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    wanted = WEIGHT_SUFFIXES + SETTING_SUFFIXES
    files = sorted(
        path
        for path in _files_below(folder)
        if path.suffix in wanted and path.name[0] != "." and path.is_file()
    )
    if not files:
        raise InputError(f"{folder} has no weights and no settings in it")
    return of_settings([[path.relative_to(folder).as_posix(), of_file(path)] for path in files])


def _files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, also in linked folders, each of which is entered once."""
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [] if os.path.realpath(place) in entered else sorted(folders)
        entered.add(os.path.realpath(place))
        yield from (Path(place, name) for name in names)


@lru_cache(maxsize=4096)
def _of_file(path: Path, size: int, stamp: int) -> str:  # noqa: ARG001  (a changed file has others)
    return checksum(path)[:DIGITS]
