"""Long lists made short: names for an error's one line, evenly spaced places in a sequence."""

from collections.abc import Sequence

SHOWN = 8


def shortened(names: Sequence[str], shown: int = SHOWN, separator: str = ", ") -> str:
    """The first `shown` names, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return separator.join(names[:shown]) + more


def spread(total: int, count: int) -> list[int]:
    """`count` evenly spaced numbers of 0 … total-1, from 0; all of them where there are fewer."""
    count = min(count, total)
    return [i * total // count for i in range(count)] if count else []
