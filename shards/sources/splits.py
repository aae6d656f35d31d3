"""Which split a person falls into, where nobody has said."""

from hashlib import sha256
from typing import NamedTuple

from core.errors import InputError


class Shares(NamedTuple):
    """The shares of people kept for validation and for testing."""

    val: float
    test: float

    def check(self) -> None:
        """Raise InputError unless they leave some people to train on."""
        if min(self) < 0 or sum(self) >= 1:
            raise InputError(
                f"--val_share {self.val:g} and --test_share {self.test:g}: give two that are not negative and"
                " leave some to train on"
            )


def split_by_hash(name: str, shares: Shares) -> str:
    """The split of the person called `name`, by a hash: whoever is added later, everybody stays where they
    are."""
    place = int.from_bytes(sha256(name.encode()).digest()[:8], "big") / 2**64
    if place < shares.val:
        return "val"
    return "test" if place < shares.val + shares.test else "train"
