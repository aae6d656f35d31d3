"""Upload of a built folder to an object store: any URL that fsspec writes, such as s3://, gs:// or file://."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from tqdm import tqdm

from core.errors import InputError
from shards.manifest import MANIFEST


def is_url(out: str) -> bool:
    """Whether an output is a URL, and no path."""
    return "://" in out


def check_vacant(url: str) -> None:
    """Raise InputError if there is a built folder at a URL, or it cannot be reached."""
    with _one_line(url):
        filesystem, root = fsspec.core.url_to_fs(url)
        if filesystem.exists(f"{root}/{MANIFEST}"):
            raise InputError(f"{url} exists already: choose another --out, or remove it to build again")


def upload(folder: Path, url: str) -> None:
    """Move a built folder to a URL, its manifest last, so that only a whole folder has one.

    Files that an interrupted upload has moved are not sent again. Shows a progress bar. Raises InputError.
    """
    files = sorted(folder.iterdir(), key=lambda path: (path.name == MANIFEST, path.name))
    size = sum(path.stat().st_size for path in files)
    with _one_line(url), tqdm(total=size, unit="B", unit_scale=True, desc="upload") as bar:
        filesystem, root = fsspec.core.url_to_fs(url)
        filesystem.makedirs(root, exist_ok=True)
        for path in files:
            _send(path, filesystem, f"{root}/{path.name}")
            bar.update(path.stat().st_size)
    shutil.rmtree(folder)


def _send(path: Path, filesystem: fsspec.AbstractFileSystem, remote: str) -> None:
    size = path.stat().st_size
    if not (filesystem.exists(remote) and filesystem.size(remote) == size):
        filesystem.put_file(str(path), remote)
    if (arrived := filesystem.size(remote)) != size:
        raise InputError(f"{remote}: {arrived} bytes arrived, not {size}: run the command again")


@contextmanager
def _one_line(url: str) -> Iterator[None]:
    """Raise InputError for what an object store raises."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"{url}: cannot be written ({error or type(error).__name__})") from error
