"""Transfer of batches from worker processes to the training process: in shared memory, or through pipes.

PyTorch passes tensors in shared memory (/dev/shm). If that is too small, as in a container with Docker's
default of 64 MB, a worker fails to send a batch, and the training process waits for it forever.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.errors import InputError

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
REMEDY = "give the container more (docker run --shm-size=8g, or --ipc=host)"
WAIT_SECONDS = 1800.0  # longest wait for a batch; downloading a shard may take minutes


def has_room(needed: int) -> bool:
    """Whether shared memory has `needed` bytes; True on systems that keep it elsewhere."""
    return not SHARED_MEMORY.is_dir() or shutil.disk_usage(SHARED_MEMORY).free >= needed


def warn_of_room(needed: int) -> None:
    """Warn that batches are sent through pipes, with the remedy."""
    free = shutil.disk_usage(SHARED_MEMORY).free
    log.warning(
        "%s has %.0f MB free, but the data loader's workers need %.0f MB: batches are sent through pipes,"
        " which is slower; %s, or lower num_workers or batch_size",
        *(SHARED_MEMORY, free / 1e6, needed / 1e6, REMEDY),
    )


def to_arrays(batch: Any) -> Any:
    """Replace a batch's tensors by NumPy arrays, which are pickled instead of put into shared memory."""
    if not isinstance(batch, Mapping):
        return batch
    return {
        name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in batch.items()
    }


def to_tensors(batch: Any) -> Any:
    """The inverse of `to_arrays`."""
    if not isinstance(batch, Mapping):
        return batch
    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in batch.items()
    }


@contextmanager
def worker_faults() -> Iterator[None]:
    """Raise InputError if PyTorch reports that a loader's worker died or hangs.

    The report comes while waiting for a batch, or by a signal at any time in training."""
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if not message.startswith(("DataLoader worker", "DataLoader timed out")):
            raise
        reason = message.strip().split(". ")[0].rstrip(".")
        raise InputError(
            f"{reason}: perhaps for lack of memory, or of shared memory; lower num_workers or batch_size, or"
            f" {REMEDY}; resume from the last checkpoint with --ckpt_path"
        ) from error
