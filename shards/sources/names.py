"""Names of files and folders as parts of sample keys."""

import os
import re
from hashlib import sha256

NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_+=@]+")
MAX_LENGTH = 40


def key_name(text: str, whole: str | None = None) -> str:
    """Replace the characters in `text` that are invalid in a sample's key by underscores.

    A hash of `whole` is appended if given, or one of `text` if anything was replaced or truncated, so that
    different names stay different.
    """
    name = NOT_IN_KEYS.sub("_", text).strip("_")
    if whole is None and name == text and len(name) <= MAX_LENGTH:
        return name
    return f"{name[:MAX_LENGTH].strip('_')}_{_digest(whole or text)}".lstrip("_")


def _digest(name: str) -> str:
    """A short hash of a name, which need not be UTF-8, as those of files."""
    return sha256(os.fsencode(name)).hexdigest()[:8]
