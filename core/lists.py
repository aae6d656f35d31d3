"""Shortening of long lists: for error messages, and by evenly spaced indices."""

from collections.abc import Sequence

import numpy as np

SHOWN = 8


def shortened(names: Sequence[str], shown: int = SHOWN, separator: str = ", ") -> str:
    """The first `shown` names and the number of the others: "a, b and 3 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return separator.join(names[:shown]) + more


def spread(total: int, count: int, ends: bool = False) -> list[int]:
    """At most `count` evenly spaced indices from 0 … total-1, ascending.

    The first is 0; with `ends`, the last is total-1.
    """
    count = min(count, total)
    if count < 1:
        return []
    if ends:
        return np.linspace(0, total - 1, count).round().astype(int).tolist()
    return [i * total // count for i in range(count)]
