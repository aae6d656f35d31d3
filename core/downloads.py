"""Files that arrive instead of weights when a download goes wrong."""

from pathlib import Path

from core.errors import InputError

HEAD = 512  # bytes that are looked at
POINTER = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html", b"<?xml")


def check_downloaded(path: Path) -> None:
    """Raise InputError where a file that exists is a Git LFS pointer or a web page."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(HEAD)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(POINTER):
        raise InputError(f"{path} is a pointer of Git LFS and not the file: git lfs pull fetches the file")
    if start.startswith(PAGES):
        raise InputError(f"{path} is a web page and not the file: download it again")
