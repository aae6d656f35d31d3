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

from core.devices import CUDA, MPS
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
    _synchronize(device)
    cost.seconds = time.perf_counter() - start
    cost.peak_bytes = _peak(device)


def _synchronize(device: str) -> None:
    kind = torch.device(device).type
    if kind == CUDA:
        torch.cuda.synchronize(device)
    elif kind == MPS:
        torch.mps.synchronize()


def _reset_peak(device: str) -> None:
    kind = torch.device(device).type
    _synchronize(device)
    if kind == CUDA:
        torch.cuda.reset_peak_memory_stats(device)
    elif kind == MPS:
        torch.mps.empty_cache()
    elif CLEAR_REFS.exists():
        try:
            CLEAR_REFS.write_text("5")
        except OSError:  # not allowed in some containers: the peak is then the process's overall one
            return


def _peak(device: str) -> int:
    kind = torch.device(device).type
    if kind == CUDA:
        return torch.cuda.max_memory_allocated(device)
    if kind == MPS:  # Metal keeps what was allocated
        return torch.mps.driver_allocated_memory()
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB
