"""Download of remote shards with fsspec into a cache of bounded size.

fsspec's own caches have no size limit and give a file its final name before it is complete; therefore local
copies, checksums and eviction are implemented here.
"""

import contextlib
import hashlib
import logging
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from fsspec.callbacks import Callback

from core.destination import store_errors
from core.errors import InputError
from core.files import checksum, exclusive, whole_file

log = logging.getLogger(__name__)

CHUNK = 1 << 20
CONNECT_SECONDS, STALL_SECONDS = 30, 60  # timeouts of connecting, and of receiving the next bytes
RETRY_SECONDS = (1.0, 10.0)
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
IN_USE_SECONDS = 600.0  # a shard that was used this recently is never evicted
TOUCH_SECONDS = 60.0

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


class NotThereError(InputError):
    """The file does not exist on the server (HTTP 404)."""


class TransientError(InputError):
    """A transfer failed for a temporary reason: the connection, or the server's load."""


def is_remote(url: str) -> bool:
    """Whether `url` has to be fetched: it has a scheme other than `file:`. `pipe:` counts as remote."""
    return bool(_SCHEME.match(url)) and not url.startswith("file:")


def local_path(url: str) -> Path:
    """The path of a URL that is not remote."""
    return Path(unquote(urlparse(url).path)) if url.startswith("file:") else Path(url)


def fetch(url: str, path: Path, max_bytes: int) -> None:
    """Copy a remote file to `path`: any URL that fsspec reads, or `pipe:` and a command that writes it.

    Transfers that fail for a temporary reason are retried after each of `RETRY_SECONDS`. Raises NotThereError
    if the file does not exist, and InputError if it cannot be read or has more than `max_bytes`.
    """
    for wait in RETRY_SECONDS:
        try:
            return _transfer(url, path, max_bytes)
        except TransientError as error:
            log.warning("%s; retrying in %g s", error, wait)
            time.sleep(wait)
    return _transfer(url, path, max_bytes)


def _transfer(url: str, path: Path, max_bytes: int) -> None:
    if url.startswith("pipe:"):
        _fetch_from_pipe(url, path, max_bytes)
        return
    import aiohttp  # a second to import, for remote shards only
    import fsspec

    try:
        filesystem, remote = fsspec.core.url_to_fs(url, **_options(url))
        filesystem.get_file(remote, os.fspath(path), callback=_Bound(url, max_bytes))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise NotThereError(f"{url}: there is no such file") from error
    except aiohttp.ClientResponseError as error:
        kind = TransientError if error.status in TRANSIENT_STATUS else InputError
        raise kind(f"{url}: the server answers {error.status} {error.message}") from error
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise TransientError(f"{url}: cannot be fetched ({str(error) or type(error).__name__})") from error
    except store_errors() as error:
        raise InputError(f"{url}: cannot be fetched ({str(error) or type(error).__name__})") from error


def fetch_bytes(url: str, max_bytes: int) -> bytes:
    """The content of a small remote file. Raises as `fetch`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        fetch(url, path, max_bytes)
        return path.read_bytes()


class ShardCache:
    """Local copies of remote shards in `folder`, at most `max_bytes` in total besides those that are being
    downloaded, shared by all processes of a machine.

    The least recently used copies are evicted first.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = Path(folder)
        self._max_bytes = max_bytes
        self._touched: dict[Path, float] = {}

    def local(self, url: str, size: int | None = None, sha256: str | None = None) -> Path:
        """The local file of a shard, downloaded if necessary and verified by `size` and `sha256` if given.

        Raises InputError if it cannot be downloaded, differs from `size` or `sha256`, or does not fit into
        the cache.
        """
        if not is_remote(url):
            return local_path(url)
        path = self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.tar"
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
        with exclusive(self.folder / "room", wait=True):
            self._make_room(size or 0)
        try:
            with whole_file(path) as partial:
                fetch(url, partial, self._max_bytes if size is None else size)
                fetched = partial.stat().st_size
                if size not in (None, fetched):
                    raise InputError(f"{url}: received {fetched} bytes, not {size} (its manifest)")
                if sha256 not in (None, checksum(partial)):
                    raise InputError(f"{url}: its checksum differs from that in its manifest")
        except OSError as error:
            raise InputError(
                f"{self.folder}: the shard cache cannot be written ({error.strerror})"
            ) from error

    def _make_room(self, needed: int) -> None:
        """Evict copies, least recently used first, until `needed` bytes fit."""
        copies = sorted(
            (file.stat().st_mtime, file.stat().st_size, file) for file in self.folder.glob("*.tar")
        )
        used = sum(size for _, size, _ in copies)
        for stamp, size, file in copies:
            if used + needed <= self._max_bytes or time.time() - stamp < IN_USE_SECONDS:
                break
            file.unlink(missing_ok=True)
            used -= size
        if used + needed > self._max_bytes:
            raise InputError(
                f"{self.folder}: the cache is full of shards in use: raise cache_gb or lower shuffle_shards"
            )


class _Bound(Callback):
    """Aborts a transfer of more than `max_bytes`."""

    def __init__(self, url: str, max_bytes: int) -> None:
        super().__init__()
        self._url, self._max_bytes = url, max_bytes

    def call(self, *_: Any, **__: Any) -> None:
        """Called after every chunk; `value` is the number of bytes so far."""
        if self.value > self._max_bytes:
            raise InputError(f"{self._url}: larger than the {self._max_bytes} bytes expected")


def _options(url: str) -> dict[str, Any]:
    """fsspec's options for a URL: over HTTP, no limit on the total time, and proxies from the environment."""
    if not url.startswith(("http:", "https:")):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def _fetch_from_pipe(url: str, path: Path, max_bytes: int) -> None:
    from webdataset.gopen import gopen  # imports torch

    try:
        with contextlib.closing(gopen(url)) as stream, path.open("wb") as file:
            while chunk := stream.read(CHUNK):
                file.write(chunk)
                if file.tell() > max_bytes:
                    raise InputError(f"{url}: larger than the {max_bytes} bytes expected")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{url}: cannot be fetched ({error})") from error
