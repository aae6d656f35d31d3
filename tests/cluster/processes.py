"""Commands in child processes, and the worker processes of a cluster."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from core.errors import one_line

SECONDS = 240  # timeout of every wait
POLL_SECONDS = 0.01
WORKER, BUSY = b"ray::_Actor", b"ray::_Actor.do"  # process names


class Command:
    """A command in a forked process, so that nothing is imported again. Its output is in the file `log`."""

    def __init__(self, command: Callable[[], object], folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.log = folder.with_suffix(".log")
        self._process = get_context("fork").Process(target=_run, args=(command, folder, self.log))
        self._process.start()

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.exitcode is not None

    def kill(self) -> None:
        """Kill the process, but not its workers."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def wait(self) -> int:
        """Wait for the process and return its exit code."""
        self._process.join(SECONDS)
        assert self._process.exitcode is not None, self.log.read_text()
        return self._process.exitcode


def _run(command: Callable[[], object], folder: Path, log: Path) -> None:
    import torch

    output = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.chdir(folder)
    torch.set_num_threads(1)  # as a worker of one core
    with one_line():
        command()


def wait_until(holds: Callable[[], Any], command: Command | None = None) -> Any:
    """Wait until `holds()` is true and return its value. Fails if the command ends first."""
    deadline = time.monotonic() + SECONDS
    while not (held := holds()):
        assert time.monotonic() < deadline
        assert command is None or not command.ended, command.log.read_text()
        time.sleep(POLL_SECONDS)
    return held


def workers(ancestor: int, name: bytes = WORKER) -> list[int]:
    """IDs of worker processes below a process whose names begin with `name`."""
    return [process for process in _below(ancestor) if _name(process).startswith(name)]


def _name(process: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def _below(ancestor: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    waiting = [ancestor]
    while waiting:
        found = children.get(waiting.pop(), [])
        yield from found
        waiting += found
