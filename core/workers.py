"""A build's worker process: its number, GPU and share of the CPU cores."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Worker:
    """Worker process `number` (from 0) of `count` on this machine; by default the only one."""

    number: int = 0
    count: int = 1

    def gpu(self, gpus: int) -> int:
        """The index of this worker's GPU among `gpus`, assigned round robin."""
        return self.number % gpus

    def threads(self) -> int:
        """This worker's share of the CPU cores, at least 1."""
        return max(1, (os.cpu_count() or 1) // self.count)


ONLY_WORKER = Worker()
