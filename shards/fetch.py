"""Remote shards, fetched whole into a folder of bounded size when they are first needed."""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlparse

from webdataset.gopen import gopen

from core.errors import InputError
from core.files import checksum, exclusive, whole_file

CHUNK = 1 << 20
IN_USE_SECONDS = 600.0  # a shard touched this recently is never thrown out
TOUCH_SECONDS = 60.0

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def is_remote(url: str) -> bool:
    """Whether `url` has to be fetched: it names a scheme other than `file:`, `pipe:` included."""
    return bool(_SCHEME.match(url)) and not url.startswith("file:")


def local_path(url: str) -> Path:
    """The path of a URL that is not remote."""
    return Path(unquote(urlparse(url).path)) if url.startswith("file:") else Path(url)


def fetch_bytes(url: str, max_bytes: int) -> bytes:
    """The content of a small remote file. Raises InputError where it cannot be had or is larger than
    `max_bytes`."""
    return b"".join(_chunks(url, max_bytes))


class ShardCache:
    """Local copies of remote shards in `folder`, at most `max_bytes` of them, shared by all processes of a
    machine.

    A copy appears under its name only when it is complete; when room is short, the copies unused for longest
    go."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._touched: dict[Path, float] = {}

    def local(self, url: str, size: int | None = None, sha256: str | None = None) -> Path:
        """The local file of a shard, fetched if need be and checked against its `size` and checksum where
        known.

        Raises InputError where it cannot be fetched, is not what was promised, or finds no room.
        """
        if not is_remote(url):
            return local_path(url)
        path = self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.tar"
        if not self._touch(path):
            with exclusive(path, wait=True):
                if not self._touch(path):
                    self._fetch(url, path, size, sha256)
        return path

    def _touch(self, path: Path) -> bool:
        """Mark a copy as used; False if there is none."""
        now = time.time()
        if now - self._touched.get(path, 0.0) < TOUCH_SECONDS:
            return True
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        self._touched[path] = now
        return True

    def _fetch(self, url: str, path: Path, size: int | None, sha256: str | None) -> None:
        with exclusive(self._folder / "room", wait=True):
            self._make_room(size or 0)
        try:
            with whole_file(path) as partial:
                with partial.open("wb") as file:
                    _copy(url, file, self._max_bytes if size is None else size)
                fetched = partial.stat().st_size
                if size not in (None, fetched):
                    raise InputError(f"{url}: {fetched} bytes came, its manifest promises {size}")
                if sha256 not in (None, checksum(partial)):
                    raise InputError(f"{url}: what came has another checksum than its manifest promises")
        except OSError as error:
            raise InputError(
                f"{self._folder}: the shard cache cannot be written ({error.strerror})"
            ) from error

    def _make_room(self, needed: int) -> None:
        """Throw out copies, longest unused first, until `needed` bytes fit."""
        copies = sorted(
            (file.stat().st_mtime, file.stat().st_size, file) for file in self._folder.glob("*.tar")
        )
        used = sum(size for _, size, _ in copies)
        for stamp, size, file in copies:
            if used + needed <= self._max_bytes or time.time() - stamp < IN_USE_SECONDS:
                break
            file.unlink(missing_ok=True)
            used -= size
        if used + needed > self._max_bytes:
            raise InputError(
                f"{self._folder}: the cache is full of shards in use: raise cache_gb or lower shuffle_shards"
            )


def _copy(url: str, file: BinaryIO, max_bytes: int) -> None:
    for chunk in _chunks(url, max_bytes):
        file.write(chunk)


def _chunks(url: str, max_bytes: int) -> Iterator[bytes]:
    """The bytes of `url` as they come. Raises InputError where it fails or yields more than `max_bytes`."""
    try:
        stream = gopen(url)
        with contextlib.closing(stream):
            total = 0
            while chunk := stream.read(CHUNK):
                total += len(chunk)
                if total > max_bytes:
                    raise InputError(f"{url}: larger than the {max_bytes} bytes expected")
                yield chunk
    except InputError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{url}: cannot be fetched ({error})") from error
