"""Commands in child processes, killed at a given time."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

SECONDS = 300  # limit for a command
POLL_SECONDS = 0.005
LEFT_SECONDS = 15  # limit for the workers of a killed process to exit

Victim = Literal["process", "group"]


class Ended(NamedTuple):
    """How a command ended: its exit code (negative for a signal), its duration in seconds, and the ID of its
    process group."""

    code: int
    seconds: float
    group: int


def run_command(
    command: Callable[[], object],
    folder: Path,
    log: Path,
    kill_after: float | None = None,
    victim: Victim = "group",
) -> Ended:
    """Run a command in a forked child process, which needs no imports.

    Args:
        command: function that the process runs
        folder: its working folder
        log: file to which its output is appended
        kill_after: seconds until it is killed by SIGKILL; None for never
        victim: `group` also kills its worker processes
    """
    child = get_context("fork").Process(target=_run, args=(command, folder, log))
    began = time.monotonic()
    child.start()
    assert child.pid is not None  # started
    # `join(timeout)` would also wait for the workers
    while child.exitcode is None and time.monotonic() < began + (kill_after or SECONDS):
        time.sleep(POLL_SECONDS)
    if child.exitcode is None:
        if victim == "group":
            with suppress(ProcessLookupError):  # it has not made its group yet
                os.killpg(child.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert child.exitcode is not None  # ended
    return Ended(child.exitcode, time.monotonic() - began, child.pid)


def _run(command: Callable[[], object], folder: Path, log: Path) -> None:
    os.setsid()
    output = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.chdir(folder)
    command()


def end_group(group: int) -> int:
    """Wait for the processes of a group to exit, and kill those that do not. Returns the number of killed
    ones."""
    deadline = time.monotonic() + LEFT_SECONDS
    while (left := _processes(group)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(left)


def _processes(group: int) -> list[int]:
    """The running processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found
