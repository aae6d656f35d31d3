"""The process that does units of work: its number, GPU and share of the CPU cores."""

import os
from collections.abc import Callable
from dataclasses import dataclass


def ignore(share: float) -> None:
    """Do nothing with the share of a unit that is done."""


@dataclass(frozen=True)
class Worker:
    """Worker process `number` (from 0) of `count` on this machine; by default the only one.

    Args:
        number: number of this worker
        count: workers that share the machine's cores
        cores: CPU cores of this worker, where they are not an equal share
        shown: whether it is the command's own process, and may show progress of its own
        report: called with the share of a unit that is done
    """

    number: int = 0
    count: int = 1
    cores: int | None = None
    shown: bool = True
    report: Callable[[float], None] = ignore

    def gpu(self, gpus: int) -> int:
        """The index of this worker's GPU among `gpus`, assigned round robin."""
        return self.number % gpus

    def threads(self) -> int:
        """This worker's share of the CPU cores, at least 1."""
        return self.cores or max(1, (os.cpu_count() or 1) // self.count)


ONLY_WORKER = Worker()
