"""The cost of predictions: seconds and peak memory for each view."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from core.schema import STRICT

CLEAR_REFS = Path("/proc/self/clear_refs")  # writing 5 resets the peak of the resident memory
STATUS = Path("/proc/self/status")
KIB = 1024


@dataclass
class Cost:
    """The cost of some views, filled in when `measured` ends.

    Args:
        seconds: elapsed time
        peak_bytes: peak memory, weights included: memory allocated by PyTorch on a GPU, or the process's
            resident memory on a CPU
    """

    __pydantic_config__: ClassVar = STRICT

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured(device: str) -> Iterator[Cost]:
    """Measure the cost of the block on a device."""
    cost = Cost()
    _reset_peak(device)
    start = time.perf_counter()
    yield cost
    if device != "cpu":
        torch.cuda.synchronize(device)
    cost.seconds = time.perf_counter() - start
    cost.peak_bytes = _peak(device)


def _reset_peak(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR_REFS.exists():
        try:
            CLEAR_REFS.write_text("5")
        except OSError:  # not allowed in some containers: the peak is then the process's overall one
            return


def _peak(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB
