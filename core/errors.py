"""How a user's mistake ends: one line that says what is wrong, where, and what to do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A user's mistake. Its message is one line naming the thing and the remedy."""

    exit_code = 2


class IncompleteError(InputError):
    """Some of many inputs failed, and the others were processed. Its message names those that failed."""

    exit_code = 1


@contextmanager
def one_line() -> Iterator[None]:
    """End the command with `error: …` on stderr and the exit code of an InputError; let bugs through."""
    try:
        yield
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
