"""Atomic writing of files and folders: each appears under its final name only when complete and on disk.

Everything is written to a temporary sibling, flushed, and renamed. The previous content stays until then, so
a crash or a full disk never leaves a partial result, and concurrent processes never mix theirs.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core.errors import InputError

log = logging.getLogger(__name__)

PARTIAL = ".partial"
LOCK = ".lock"
RESULT = "result"
DONE = "done"  # marks a work folder whose result is complete
STALE_SECONDS = 60.0  # an unlocked temporary file of this age was left by a process that died
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def write_json(path: Path, values: Any) -> None:
    """Write `values` atomically as JSON: indented, keys sorted, with a final newline."""
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    # names of files that are not UTF-8 have surrogates, whose escapes by Python are also JSON's
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` atomically."""
    with whole_file(path) as partial:
        partial.write_bytes(data)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, an empty file that replaces `path` when the block ends.

    If the block raises, the temporary file is removed and `path` stays unchanged. Several processes may write
    `path` at the same time: the last one to finish wins. The folder must exist.
    """
    path = Path(path)
    _remove_stale(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        _lock(descriptor, wait=False)
        yield partial
        # safetensors replaces the file by one that only its owner can read
        partial.chmod(stat.S_IMODE(os.fstat(descriptor).st_mode))
        flush(partial)
        os.replace(partial, path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder `<path>.partial` that is renamed to `path` when the block ends.

    If the block raises, the folder is removed and `path` stays unchanged. Leftovers of an interrupted run are
    removed first; if it was interrupted while replacing `path`, the replacement is completed.

    Raises:
        InputError: `path` exists and `replace` is False; another process is writing it; or the folder cannot
            be created.
    """
    path = Path(path)
    with exclusive(path):
        partial, replaced = _sibling(path, PARTIAL), _sibling(path, ".replaced")
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        if path.exists() and not replace:
            raise InputError(f"{path} exists already: remove it or choose another folder")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
        except OSError as error:
            raise _no_folder(path, error) from error
        try:
            yield partial
            flush_folder(partial)
            shutil.rmtree(replaced, ignore_errors=True)
            if path.exists():
                path.rename(replaced)
            partial.rename(path)
            flush(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def resumable_folder(path: Path, recipe: Any, replace: bool = False) -> Iterator[Path]:
    """Yield the work folder `<path>.partial`; its subfolder `RESULT` becomes `path` when the block ends.

    If the block raises or the process dies, the work folder stays, and the next call with the same `recipe`
    (JSON-serialisable values) resumes it. If it died after `path` appeared, the next call removes what is
    left of the work folder.

    Raises:
        InputError: `path` exists and `replace` is False; another process is writing it; the work folder
            belongs to another recipe; or it cannot be created.
    """
    path = Path(path)
    recipe = json.loads(json.dumps(recipe))
    with exclusive(path):
        partial, replaced = _sibling(path, PARTIAL), _sibling(path, ".replaced")
        record = partial / "recipe.json"
        if path.exists() or path.is_symlink():
            if (partial / DONE).exists() and not (partial / RESULT).exists():
                shutil.rmtree(partial)
            if not replace:
                raise InputError(f"{path} exists already: remove it or choose another folder")
        try:
            partial.mkdir(exist_ok=True)
            if not record.exists():
                write_json(record, recipe)
            if json.loads(record.read_text(encoding="utf-8")) != recipe:
                raise InputError(
                    f"{partial} is of an interrupted run with other settings: use those again, or remove it"
                )
        except OSError as error:
            raise _no_folder(path, error) from error
        yield partial
        flush_folder(partial / RESULT)
        (partial / DONE).touch()
        shutil.rmtree(replaced, ignore_errors=True)
        if path.exists():
            path.rename(replaced)
        (partial / RESULT).rename(path)
        flush(path.parent)
        shutil.rmtree(partial)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def exclusive(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on `path`, a file or folder that need not exist yet.

    The lock file is `.<name>.lock` in the same folder; the system releases it when the process ends. With
    `wait`, block until another process releases it. Missing parent folders are created.

    Raises:
        InputError: another process holds the lock and `wait` is False; or the folder is not writable.
    """
    path = Path(path)
    lock = path.with_name(f".{path.name}{LOCK}")
    descriptor = _open_lock(path, lock, wait)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _open_lock(path: Path, lock: Path, wait: bool) -> int:
    """The descriptor of the lock file, locked by this process and verified to be the one on disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            if not _lock(descriptor, wait):
                os.close(descriptor)
                raise InputError(
                    f"{path}: another process is writing it; wait for that one, or choose another place"
                )
            # The previous holder may have removed the file between our opening and our locking it.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    return descriptor
            os.close(descriptor)
    except OSError as error:
        raise _no_folder(path, error) from error


def _lock(descriptor: int, wait: bool) -> bool:
    """Lock an open file; False if another process holds it. Without filesystem support, always True."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.debug("this filesystem does not support locks: do not write to one folder from two runs")
    return True


def _remove_stale(path: Path) -> None:
    """Remove temporary files of `path` that were left by processes that died."""
    for partial in path.parent.glob(f".{_escaped(path.name)}.????????{PARTIAL}"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime < STALE_SECONDS:
                continue
            descriptor = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
            try:
                if _lock(descriptor, wait=False):
                    partial.unlink()
            finally:
                os.close(descriptor)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def is_temporary(path: Path) -> bool:
    """Whether a file is a lock or an unfinished file of this module, perhaps left by a process that died."""
    return path.name.startswith(".") and path.name.endswith((LOCK, PARTIAL))


def _sibling(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")


def _no_folder(path: Path, error: OSError) -> InputError:
    reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
    return InputError(f"{path}: the folder cannot be created: {reason}")


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network filesystems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush all files and folders below a folder to disk, with the folder's permissions on the files."""
    readable = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if not path.is_symlink():
                path.chmod(readable)
                flush(path)
        flush(Path(place))


def checksum(path: Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
