"""Files and folders that appear under their name only when they are complete."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import InputError


def write_json(path: Path, values: Any) -> None:
    """Write JSON under a temporary name, then give it its own."""
    write_text(path, json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text under a temporary name, then give it its own."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def checksum(path: Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A folder to write into that takes the name `path` once the block has ended well.

    Raises InputError where `path` exists already, unless it is to be replaced, which happens at the end; and
    where no folder can be made there. What an interrupted earlier run left beside it is removed.
    """
    if path.exists() and not replace:
        raise InputError(f"{path} exists already: remove it or choose another folder")
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{path}: no folder can be made there: {error.strerror}") from error
    try:
        yield partial
        _take_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, path: Path) -> None:
    """Give `partial` the name of a folder that may be there; an interruption leaves the old one beside it."""
    if not path.exists():
        partial.rename(path)
        return
    replaced = path.with_name(f"{path.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    path.rename(replaced)
    partial.rename(path)
    shutil.rmtree(replaced)
