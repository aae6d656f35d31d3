"""How a user's mistake or a machine's limit ends: one line of what is wrong, where, and what to do."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class InputError(ValueError):
    """A user's mistake. Its message is one line naming the thing and the remedy."""

    exit_code = 2


class IncompleteError(InputError):
    """Some of many inputs failed, and the others were processed. Its message names those that failed."""

    exit_code = 1


# Faults of the machine or of permissions that any write or read can meet, and what to do about them.
REMEDIES = {
    errno.ENOSPC: "make room on that disk and run the same command again",
    errno.EDQUOT: "make room within your quota and run the same command again",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.EIO: "the disk or its connection fails: check it and run the same command again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "free some memory, or ask for less at a time",
}


LONGEST = 2000  # characters of the line


@contextmanager
def one_line() -> Iterator[None]:
    """End the command with `error: …` on stderr: with the exit code of an InputError, with 1 where the disk
    is full, read-only, or another of `REMEDIES`. Let bugs through."""
    try:
        yield
    except InputError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
        _end(f"{where}{error.strerror}: {REMEDIES[error.errno]}", 1)


def _end(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    # a damaged file may name something with megabytes
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code) from None
