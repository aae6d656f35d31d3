"""Which of a build's processes this one is: they share GPUs and cores by it."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Worker:
    """One of `count` processes, by its number from 0."""

    number: int = 0
    count: int = 1

    def gpu(self, count: int) -> int:
        """Its GPU of `count`: processes take them in turn."""
        return self.number % count

    def threads(self) -> int:
        """Its share of the machine's cores, one at least."""
        return max(1, (os.cpu_count() or 1) // self.count)


# A process's own, set when it starts; one that no build started has the machine for itself.
_worker = Worker()


def begin(worker: Worker) -> None:
    """Tell this process which one it is."""
    global _worker
    _worker = worker


def this_worker() -> Worker:
    """Which one this process is."""
    return _worker
