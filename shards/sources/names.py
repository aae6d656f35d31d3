"""Names of files and folders → names that a sample's key may hold, different ones for different ones."""

import re
from hashlib import sha256

NOT_A_KEY = re.compile(r"[^A-Za-z0-9_+=@]+")
LONGEST = 40


def key_name(text: str, whole: str | None = None) -> str:
    """What a key may hold of `text`; with a hash of the `whole` name behind it where that is given, or where
    something of `text` had to go."""
    name = NOT_A_KEY.sub("_", text).strip("_")
    if whole is None and name == text and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST].strip('_')}_{sha256((whole or text).encode()).hexdigest()[:8]}".lstrip("_")
