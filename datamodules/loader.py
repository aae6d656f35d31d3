"""The data loader: resumption within a stream, limits on damaged samples, and workers that survive
signals."""

import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from core.errors import InputError
from datamodules.reading import Batch
from datamodules.stream import EvaluationBatches, TrainBatches
from datamodules.transport import (
    WAIT_SECONDS,
    has_room,
    to_arrays,
    to_tensors,
    warn_of_room,
    worker_faults,
)

log = logging.getLogger(__name__)

GRACE_SECONDS = 60  # time that a worker continues after SIGTERM or SIGHUP
MIN_SKIPPED = 10


class SkipCounter:
    """Counts damaged samples, logs each of them, and raises InputError when there are too many.

    Once `MIN_SKIPPED` were skipped, at most a share `max_share` of the good samples may be damaged; with 0,
    no sample may be."""

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._named: set[str] = set()
        self.skipped = 0
        self.seen = 0

    def add(self, batch: Batch) -> None:
        """Count the samples of a batch. Raises InputError when too many were skipped."""
        self.skipped += len(batch["skipped"])
        self.seen += len(batch["key"])
        for message in batch["skipped"]:
            if message not in self._named:
                self._named.add(message)
                log.warning("skipped a damaged sample (%d so far): %s", self.skipped, message)
        least = MIN_SKIPPED if self._max_share > 0 else 1
        if self.skipped >= least and self.skipped > self._max_share * self.seen:
            raise InputError(
                f"{self.skipped} damaged and {self.seen} good samples, more than max_skipped_share"
                f" {self._max_share} allows; the last: {(batch['skipped'] or ['-'])[-1]}"
            )


class StreamLoader(DataLoader[Any]):
    """A DataLoader over datasets of complete batches.

    Each iteration over a training stream starts at the position that `begin()` returns. An InputError in a
    worker is raised without the worker's traceback, and a worker that dies or hangs raises InputError.
    torch's global random state is not used.

    Workers need `room` bytes of shared memory; if there is less, they send batches through pipes.
    """

    def __init__(
        self,
        dataset: TrainBatches | EvaluationBatches,
        skips: SkipCounter,
        begin: Callable[[], int] | None = None,
        num_workers: int = 0,
        room: int = 0,
        **options: Any,
    ) -> None:
        pipes = num_workers > 0 and not has_room(room)
        if pipes:
            warn_of_room(room)
        super().__init__(
            dataset,
            batch_size=None,
            collate_fn=to_arrays if pipes else _unchanged,
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available(),
            num_workers=num_workers,
            worker_init_fn=outlive_signals,
            timeout=WAIT_SECONDS if num_workers else 0,
            **options,
        )
        self._skips = skips
        self._begin = begin

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch promises its own iterator class
        if self._begin is not None and isinstance(self.dataset, TrainBatches):
            self.dataset.start = self._begin()
        for batch in self._batches():
            if isinstance(batch, InputError):
                raise batch
            self._skips.add(batch)
            yield batch

    def _batches(self) -> Iterator[Any]:
        """The batches as workers send them: in shared memory, or as NumPy arrays through pipes."""
        with worker_faults():
            yield from map(to_tensors, super().__iter__())


def outlive_signals(number: int) -> None:  # noqa: ARG001  (torch gives a worker's number)
    """Let a worker continue for `GRACE_SECONDS` after SIGTERM and SIGHUP, and ignore SIGINT.

    Job managers and terminals send these to all processes of a run, and the main process needs batches until
    the end of the step, when it saves a checkpoint.
    """
    signal.set_wakeup_fd(-1)  # the main process's, which a forked worker shares; see `core.signals.EndAtOnce`
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, lambda *_: signal.alarm(GRACE_SECONDS))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unchanged(batch: Any) -> Any:
    return batch


class StreamProgress:
    """The position that training has reached in the stream, counted over all ranks.

    `done` is the position after the last completed optimiser step. `taken` includes the accumulated batches
    of an incomplete step, which a resumed run repeats.
    """

    def __init__(self, done: int = 0) -> None:
        self.done = done
        self.taken = done
        self._step = 0

    def take(self, end: int, step: int) -> None:
        """Record that a batch which ends before position `end` is trained on after `step` optimiser steps."""
        self.settle(step)
        self.taken = end

    def settle(self, step: int) -> None:
        """Record that `step` optimiser steps are complete, and with them the batches taken so far."""
        if step != self._step:
            self.done, self._step = self.taken, step
