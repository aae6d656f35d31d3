"""How a user's mistake ends: one line that says what is wrong, where, and what to do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A user's mistake. Its message is one line naming the thing and the remedy."""


@contextmanager
def one_line() -> Iterator[None]:
    """End the command with `error: …` on stderr and exit code 2 on an InputError; let bugs through."""
    try:
        yield
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
