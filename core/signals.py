"""Signals that end a command, and processes that end with the command that launched them.

Standard library only: commands install these handlers before they import what takes seconds.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, ClassVar, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENDED_BY = 128  # exit code of a process that was ended by a signal, minus the signal's number
LAUNCHER = "DIFFPORTRAIT3D_LAUNCHER"  # environment variable: ID of the process that launches further ranks
POLL_SECONDS = 0.2
LAUNCHER_SECONDS = 4  # in which a launcher exits after a signal, unless it is training already
STDERR = 2


class EndAtOnce:
    """In this context SIGINT, SIGTERM and SIGHUP end the process at once: one line, exit code 128 + number.

    It is for the time in which a command imports modules and connects to other ranks. A KeyboardInterrupt
    could be caught by a module that is being imported, and no Python handler runs in the main thread before a
    call into C++ returns. Therefore a thread ends the process, whatever the main thread does and whichever
    handlers it has installed meanwhile. Nothing is cleaned up.

    A launched rank passes the signal on to its launcher, which prints the line and ends both. Ignored signals
    stay ignored.
    """

    active: ClassVar["EndAtOnce | None"] = None
    """The innermost one of this process, as there is one handler of a signal."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._outer: EndAtOnce | None = None
        self._received = threading.Lock()
        self._owner = self._write = self._wakeup = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            self._install()
        return self

    def __exit__(self, *_: object) -> None:
        self.lift()

    def __call__(self, number: int, _: FrameType | None = None) -> None:
        """End this process."""
        if not self._received.acquire(blocking=False):
            return  # the other thread ends the process
        if (parent := launcher()) is not None:
            if parent == os.getppid():
                os.kill(parent, number)
                time.sleep(LAUNCHER_SECONDS)
        elif os.getpid() == self._owner:  # and not a forked child
            name = signal.Signals(number).name
            line = "interrupted" if number == signal.SIGINT else f"stopped by {name}"
            with suppress(OSError):
                os.write(STDERR, f"{line}\n".encode())
        os._exit(ENDED_BY + number)

    def hand_over(self) -> None:
        """Leave signals to the handlers that are installed now."""
        signal.set_wakeup_fd(self._wakeup)

    def lift(self) -> None:
        """Restore the previous handlers."""
        if EndAtOnce.active is not self:
            return
        EndAtOnce.active = self._outer
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._write)

    def _install(self) -> None:
        self._owner = os.getpid()
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        threading.Thread(target=self._watch, args=(read,), name="end-at-once", daemon=True).start()
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self) or signal.SIG_DFL
        self._outer, EndAtOnce.active = EndAtOnce.active, self
        # the C handler of each signal writes its number there
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def _watch(self, read: int) -> None:
        while data := os.read(read, 1):
            if data[0] in SIGNALS:
                self(data[0])
        os.close(read)


def lift() -> None:
    """Restore the handlers from before `EndAtOnce`, if it is active: SIGINT raises KeyboardInterrupt."""
    while EndAtOnce.active is not None:
        EndAtOnce.active.lift()


def hand_over() -> None:
    """Leave signals to the handlers that are installed now, if `EndAtOnce` is active."""
    if EndAtOnce.active is not None:
        EndAtOnce.active.hand_over()


def launcher() -> int | None:
    """The ID of the process that launched this rank; None if this is no launched rank."""
    pid = int(os.environ.get(LAUNCHER, os.getpid()))
    return None if pid == os.getpid() or not _local_rank() else pid


def _local_rank() -> int:
    """The number of this rank among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def launching() -> Iterator[None]:
    """Record this process, in the environment, as the launcher of ranks that are started in the block. Does
    nothing in a launched rank."""
    if launcher() is not None:
        yield
        return
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[LAUNCHER]


def end_with_parent() -> None:
    """End this process when the process that launched it has ended, even while it waits for other ranks.

    Does nothing on the first rank of a machine. A launcher that ended before this call is noticed as well.
    """
    if not _local_rank():
        return
    parent = launcher() or os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
