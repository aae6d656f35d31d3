"""Where a command's results go: a folder, or a URL that fsspec writes, such as s3://, gs:// or file://.

For a URL, the command works in a folder of the same name in a staging folder. When that folder is finished,
its files are moved to the URL, one of them last: a URL without it is not complete.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import fsspec
from tqdm import tqdm

from core.errors import InputError
from core.files import exclusive, is_temporary, write_text
from core.fingerprints import of_settings

STAGING_HELP = "for a URL as --out, the folder to work in, which workers of a cluster have to see as well"
RECORD = ".sent"  # JSON lines: the URL and the recipe of a folder, `BEGUN`, then the files that its URL has
BEGUN = '["begun"]\n'
BATCH_FILES, BATCH_BYTES = 64, 64 << 20  # sent at a time
# Exceptions of object stores' libraries, which have no common base but Exception.
STORE_ERRORS = {
    "botocore.exceptions": "BotoCoreError",
    "google.auth.exceptions": "GoogleAuthError",
    "gcsfs.retry": "HttpError",
    "azure.core.exceptions": "AzureError",
    "aiohttp": "ClientError",
}


def is_url(out: str) -> bool:
    """Whether an output is a URL, and no path."""
    return "://" in out


def store_errors() -> tuple[type[Exception], ...]:
    """What fsspec raises for stores that cannot be reached, read or written."""
    loaded = [(sys.modules.get(module), name) for module, name in STORE_ERRORS.items()]
    own = [getattr(module, name) for module, name in loaded if module is not None]
    return (OSError, ValueError, RuntimeError, ImportError, *own)


@dataclass(frozen=True)
class Destination:
    """The place of a command's results.

    Args:
        folder: the folder that the command writes
        url: the URL that the finished folder is moved to; None if it stays
    """

    folder: Path
    url: str | None = None

    @classmethod
    def of(cls, out: str, staging: str | None) -> Self:
        """The destination `out`, a folder, or a URL with a `staging` folder. Raises InputError unless a URL
        and a staging folder are given together."""
        if is_url(out) != (staging is not None):
            raise InputError(
                "--staging DIR and a URL as --out go together: the command works in one for the other"
            )
        if staging is None:
            return cls(Path(out))
        url = out.rstrip("/")
        if not is_url(url):
            raise InputError(f"--out {out}: name a folder in the store")
        return cls(Path(staging, url.rpartition("/")[2]), url)

    def __str__(self) -> str:
        return self.url or str(self.folder)

    def resolve(self) -> Self:
        """The destination with an absolute folder."""
        return replace(self, folder=self.folder.resolve())

    def is_vacant(self) -> bool:
        """Whether the URL has no files but those that an interrupted delivery of the folder has sent. Raises
        InputError if the URL cannot be reached."""
        if self.url is None or (self._header() is not None and BEGUN in self._lines()):
            return True
        with _one_line(self.url, "read"):
            filesystem, root = fsspec.core.url_to_fs(self.url)
            return not _has_files(filesystem, root)

    def check_vacant(self) -> None:
        """Raise InputError unless the URL is vacant."""
        if not self.is_vacant():
            raise InputError(f"{self.url} exists already: choose another --out, or remove it")

    def fetch(self, path: Path, max_bytes: int = 1 << 20) -> bool:
        """Copy the file of this name at the URL to `path`; False if there is none, or a larger one. Raises
        InputError if the URL cannot be read."""
        assert self.url is not None
        with _one_line(self.url, "read"):
            filesystem, root = fsspec.core.url_to_fs(self.url)
            remote = f"{root}/{path.name}"
            found = filesystem.isfile(remote) and filesystem.size(remote) <= max_bytes
            if found:
                filesystem.get_file(remote, str(path))
            return found

    def label(self, folder: Path, recipe: Any) -> None:
        """Record in an unfinished folder that it becomes `self.folder`, by this recipe (JSON-serialisable
        values), so that an interrupted delivery is resumed. Does nothing without a URL."""
        if self.url is not None:
            write_text(folder / RECORD, _line(self.url, of_settings(recipe)))

    def is_finished(self, recipe: Any) -> bool:
        """Whether an earlier run has finished the folder for the URL, and only its delivery was interrupted.
        Raises InputError if the folder is there, but of another recipe."""
        if self.url is None or not self.folder.exists():
            return False
        if self._header() != [self.url, of_settings(recipe)]:
            raise InputError(f"{self.folder} is of other settings: remove it, or choose another --staging")
        return True

    def deliver(self, last: str, overwrite: bool = False) -> None:
        """Move the finished folder to the URL, its file `last` at the end. Does nothing without a URL.

        Files that an interrupted delivery has sent are not sent again. Shows a progress bar.

        Args:
            last: name of the file that only a complete result has
            overwrite: first remove everything at the URL

        Raises InputError if the URL is not vacant, or cannot be written.
        """
        if self.url is None:
            return
        with exclusive(self.folder):
            if not overwrite:
                self.check_vacant()
            if self._header() is None:
                self.label(self.folder, None)
            self._send(self.url, last, overwrite)
            delivered = self.folder.with_name(f"{self.folder.name}.delivered")
            shutil.rmtree(delivered, ignore_errors=True)
            self.folder.rename(delivered)
            shutil.rmtree(delivered)

    def _send(self, url: str, last: str, overwrite: bool) -> None:
        lines = self._lines()
        write_text(self.folder / RECORD, "".join(lines))
        sent = set(lines)
        paths = sorted(
            (path for path in self.folder.rglob("*") if _is_result(path)),
            key=lambda path: (path == self.folder / last, path),
        )
        size = {path: path.stat().st_size for path in paths}
        todo = [path for path in paths if self._entry(path) not in sent]
        total = sum(size.values())
        done = total - sum(size[path] for path in todo)
        with (
            _one_line(url, "written"),
            tqdm(total=total, initial=done, unit="B", unit_scale=True, desc="upload") as bar,
            (self.folder / RECORD).open("a", encoding="utf-8") as record,
        ):
            filesystem, root = fsspec.core.url_to_fs(url)
            if BEGUN not in sent:
                record.write(BEGUN)
                record.flush()
            if overwrite and len(todo) == len(paths) and filesystem.exists(root):
                filesystem.rm(root, recursive=True)
            for batch in _batches(todo, size, last=self.folder / last):
                remote = [f"{root}/{path.relative_to(self.folder).as_posix()}" for path in batch]
                _put(filesystem, batch, remote)
                record.writelines(self._entry(path) for path in batch)
                record.flush()
                bar.update(sum(size[path] for path in batch))

    def _entry(self, path: Path) -> str:
        """The record's line for a file that was sent. It changes when the file is rewritten, so that it is
        sent again."""
        status = path.stat()
        return _line(path.relative_to(self.folder).as_posix(), status.st_size, status.st_mtime_ns)

    def _header(self) -> list[Any] | None:
        """The URL and the recipe in the folder's record; None without a record for this URL."""
        lines = self._lines()
        header = json.loads(lines[0]) if lines else [None]
        return header if header[0] == self.url else None

    def _lines(self) -> list[str]:
        """The lines of the folder's record, without one that was cut off."""
        path = self.folder / RECORD
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _line(*values: Any) -> str:
    return json.dumps(values) + "\n"


def _is_result(path: Path) -> bool:
    return path.name != RECORD and not is_temporary(path) and path.is_file()


def _has_files(filesystem: fsspec.AbstractFileSystem, root: str) -> bool:
    try:
        return bool(filesystem.ls(root, detail=False))
    except FileNotFoundError:
        return False


def _batches(paths: Sequence[Path], size: dict[Path, int], last: Path) -> Iterator[list[Path]]:
    """Consecutive files that are sent at a time, in any order; `last` by itself."""
    batch: list[Path] = []
    for path in paths:
        full = len(batch) == BATCH_FILES or sum(size[one] for one in batch) + size[path] > BATCH_BYTES
        if batch and (full or path == last):
            yield batch
            batch = []
        batch.append(path)
    if batch:
        yield batch


def _put(filesystem: fsspec.AbstractFileSystem, paths: Sequence[Path], remote: list[str]) -> None:
    """Send files and compare their sizes. Raises InputError if they differ."""
    for folder in dict.fromkeys(name.rpartition("/")[0] for name in remote):
        filesystem.makedirs(folder, exist_ok=True)
    filesystem.put([str(path) for path in paths], remote)
    for path, name, arrived in zip(paths, remote, filesystem.sizes(remote), strict=True):
        if arrived != path.stat().st_size:
            raise InputError(
                f"{name}: {arrived} bytes arrived, not {path.stat().st_size}: run the command again"
            )


@contextmanager
def _one_line(url: str, attempt: Literal["read", "written"]) -> Iterator[None]:
    """Raise InputError for what an object store raises."""
    try:
        yield
    except InputError:
        raise
    except store_errors() as error:
        raise InputError(f"{url}: cannot be {attempt} ({str(error) or type(error).__name__})") from error
