"""Fingerprints of weights, files and settings: short content hashes.

Saved results (trained parts, cached latents, predictions, inversions) record the fingerprints of their inputs
and are reused only if these are unchanged.
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

if TYPE_CHECKING:  # importing torch takes seconds
    from torch import Tensor

DIGITS = 16
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz")
SETTING_SUFFIXES = (".json", ".yaml", ".txt")


def of_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """The fingerprint of a state dict's names, shapes and values.

    Values are rounded to half precision, so that weights and their half-precision export have the same one.
    """
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:DIGITS]


def of_settings(values: Any) -> str:
    """The fingerprint of JSON-serialisable values, independent of key order. Paths are hashed as strings."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:DIGITS]


def of_file(path: Path) -> str:
    """The fingerprint of a file's content."""
    return cached_checksum(path)[:DIGITS]


def cached_checksum(path: Path) -> str:
    """The SHA-256 of a file's content, cached by path, size and modification time."""
    status = path.stat()
    return _checksum(path.resolve(), status.st_size, status.st_mtime_ns)


def of_folder(folder: Path) -> str:
    """The fingerprint of a model or data folder: names and contents of all weights and settings below it.

    Only files ending in `WEIGHT_SUFFIXES` or `SETTING_SUFFIXES` count. Links are followed, as parts of a
    model may be links into a hub cache. Raises InputError if the folder is missing or has no such file.
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
    """All files below a folder. Linked folders are entered, each once."""
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [] if os.path.realpath(place) in entered else sorted(folders)
        entered.add(os.path.realpath(place))
        yield from (Path(place, name) for name in names)


@lru_cache(maxsize=4096)
def _checksum(path: Path, size: int, stamp: int) -> str:  # noqa: ARG001  (a changed file has others)
    return checksum(path)
