"""Detection of failed downloads: Git LFS pointers and web pages saved under the name of a weights file."""

from pathlib import Path

from core.errors import InputError

HEAD = 512  # bytes read from the start of a file
POINTER = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html", b"<?xml")


def check_downloaded(path: Path) -> None:
    """Raise InputError if `path` exists and is a Git LFS pointer or a web page."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(HEAD)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(POINTER):
        raise InputError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    if start.startswith(PAGES):
        raise InputError(f"{path} is a web page, not the file itself: download it again")
