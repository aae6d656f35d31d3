"""Long lists made short: names for an error's one line, evenly spaced places in a sequence."""

from collections.abc import Sequence

import numpy as np

SHOWN = 8


def shortened(names: Sequence[str], shown: int = SHOWN, separator: str = ", ") -> str:
    """The first `shown` names, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return separator.join(names[:shown]) + more


def spread(total: int, count: int, ends: bool = False) -> list[int]:
    """`count` evenly spaced numbers of 0 … total-1, ascending; all of them where there are fewer.

    The first one is 0; with `ends`, the last one is total-1.
    """
    count = min(count, total)
    if count < 1:
        return []
    if ends:
        return np.linspace(0, total - 1, count).round().astype(int).tolist()
    return [i * total // count for i in range(count)]
