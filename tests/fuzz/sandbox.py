"""One case in a child process: limits on memory, time and file sizes, and a canary that detects execution."""

import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from core.errors import InputError

MEMORY = 2 << 30  # bytes, in addition to the parent's
SECONDS = 30  # of processor time, which does not depend on how busy the machine is
WAIT_SECONDS = 600  # for a process that takes no processor time, as it waits for something
LARGEST_FILE = 1 << 30

Verdict = Literal["refused", "loaded", "traceback", "hang", "crash", "executed", "wrote outside"]


class Outcome(NamedTuple):
    """The outcome of a case, with its error, traceback, or the fingerprint of the loaded values."""

    verdict: Verdict
    detail: str


def run_case(load: Callable[[Path], str], folder: Path, canary: Path) -> Outcome:
    """Load the files in `folder` in a child process.

    `load` returns a fingerprint of the loaded values. `folder` has to be the only entry of its parent, so
    that files written outside are found, and `canary` must not exist.
    """
    beside = set(folder.parent.iterdir())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(load, folder, write)
    os.close(write)
    outcome = _wait(child, read)
    if canary.exists():
        canary.unlink()
        return Outcome("executed", outcome.detail)
    if strange := set(folder.parent.iterdir()) - beside:
        return Outcome("wrote outside", ", ".join(map(str, sorted(strange))))
    return outcome


def _child(load: Callable[[Path], str], folder: Path, write: int) -> None:
    """Load, report, and exit without running the parent's clean-up."""
    try:
        _limit()
        os.chdir(folder)
        outcome = _load(load, folder)
        with os.fdopen(write, "w") as pipe:
            json.dump(outcome, pipe)
    finally:
        os._exit(0)


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)


def _load(load: Callable[[Path], str], folder: Path) -> Outcome:
    try:
        return Outcome("loaded", load(folder))
    except InputError as error:
        return Outcome("refused", " ".join(str(error).split()))
    except BaseException:
        return Outcome("traceback", traceback.format_exc())


def _wait(child: int, read: int) -> Outcome:
    """The child's report. The kernel ends it when its processor time is over, and it is killed when it waits
    for too long."""
    os.set_blocking(read, False)
    deadline, report = time.monotonic() + WAIT_SECONDS, b""
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            report += pipe.read() or b""
            if done:
                break
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome("hang", f"waits for something after {WAIT_SECONDS} s")
            time.sleep(0.002)
    if report:
        return Outcome(*json.loads(report))
    if not os.WIFSIGNALED(status):
        return Outcome("crash", "no report")
    if os.WTERMSIG(status) == signal.SIGXCPU:
        return Outcome("hang", f"not done after {SECONDS} s of processor time")
    return Outcome("crash", f"ended by signal {os.WTERMSIG(status)}")
