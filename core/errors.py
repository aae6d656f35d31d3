"""Errors that commands report in one line: what is wrong, where, and what to do."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from core.signals import ENDED_BY, lift


class InputError(ValueError):
    """Invalid input. The message is one line that names the input and the remedy."""

    exit_code = 2


class IncompleteError(InputError):
    """Some of many inputs failed; the others were processed. The message names the failed ones."""

    exit_code = 1


# Errors of the machine or of permissions that any read or write may raise, and their remedies.
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


LONGEST = 2000  # characters of a reported line
INTERRUPTED = ENDED_BY + signal.SIGINT  # exit code of a process that was ended by SIGINT


@contextmanager
def one_line() -> Iterator[None]:
    """Exit with one line, `error: …`, on stderr for an InputError (with its exit code) and for the system
    errors in `REMEDIES` (with 1), or with the line `interrupted` for SIGINT (with 130). Other exceptions
    propagate with their traceback.

    SIGINT raises KeyboardInterrupt from here on, also in commands that were imported under `EndAtOnce`."""
    try:
        lift()
        yield
    except InputError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
        _end(f"{where}{error.strerror}: {REMEDIES[error.errno]}", 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _end(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    # names read from a damaged file may be megabytes long
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code) from None
