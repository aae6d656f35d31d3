"""Errors that commands report in one line: what is wrong, where, and what to do."""

import errno
import io
import os
import select
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
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a part of this path is a file: check it",
    errno.EISDIR: "this is a folder: name a file",
    errno.ELOOP: "its links lead in a circle: give a path without them",
}
LESS_MEMORY = (
    "ask for less at a time: smaller batches, windows and chunks, fewer pixels, views or workers"
    " (`diffportrait3d memory` computes what training takes)"
)


LONGEST = 2000  # characters of a reported line
INTERRUPTED = ENDED_BY + signal.SIGINT  # exit code of a process that was ended by SIGINT


@contextmanager
def one_line() -> Iterator[None]:
    """Exit with one line, `error: …`, on stderr for an InputError (with its exit code), for the system
    errors in `REMEDIES` and where memory runs out (with 1), or with the line `interrupted` for SIGINT (with
    130). Other exceptions propagate with their traceback.

    A command whose output is cut off, as by `head`, ends silently with the code that shells give for SIGPIPE.
    Characters that the terminal's encoding lacks are printed as escapes. SIGINT raises KeyboardInterrupt from
    here on, also in commands that were imported under `EndAtOnce`."""
    try:
        lift()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield
        sys.stdout.flush()
    except InputError as error:
        _end(str(error), error.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n", 1)[0].removesuffix(".")
        _end(": ".join(filter(None, ["out of memory", reason, LESS_MEMORY])), 1)
    except BrokenPipeError:
        if not _is_output_cut_off():
            raise
        raise SystemExit(ENDED_BY + signal.SIGPIPE) from None
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
        _end(f"{where}{error.strerror}: {REMEDIES[error.errno]}", 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of this machine or of a GPU."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return isinstance(error, MemoryError) or on_gpu or "DefaultCPUAllocator" in str(error)


def _is_output_cut_off() -> bool:
    """Whether nothing reads stdout any more; it is then closed, so that Python does not flush it at exit."""
    try:
        stdout = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file, as in tests
        return False
    waiting = select.poll()
    waiting.register(stdout, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in waiting.poll(0)):
        return False
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stdout)
    return True


def _end(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    # names read from a damaged file may be megabytes long
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code) from None
