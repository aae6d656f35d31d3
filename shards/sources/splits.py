"""Assignment of people to splits by a hash of their name."""

from hashlib import sha256
from typing import NamedTuple

from core.errors import InputError


class Shares(NamedTuple):
    """The shares of people held out for validation and for testing, in [0, 1)."""

    val: float
    test: float

    def check(self) -> None:
        """Raise InputError if they are negative or leave nobody to train on."""
        if min(self) < 0 or sum(self) >= 1:
            raise InputError(
                f"--val_share {self.val:g} and --test_share {self.test:g}: give shares of 0 or more that sum"
                " to less than 1, to leave people for training"
            )


def split_by_hash(name: str, shares: Shares) -> str:
    """The split of a person: a function of the name alone, so that people added later do not change the
    others' splits."""
    position = int.from_bytes(sha256(name.encode()).digest()[:8], "big") / 2**64
    if position < shares.val:
        return "val"
    return "test" if position < shares.val + shares.test else "train"
