"""The loader between the batches and the trainer: order, resuming, and the account of what was skipped."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from core.errors import InputError
from datamodules.reading import Batch
from datamodules.stream import EvaluationBatches, TrainBatches

log = logging.getLogger(__name__)

MIN_SKIPPED = 10


class SkipLedger:
    """Counts damaged samples, names each in the log once, and ends the run when they are too many.

    More than `max_share` of the samples seen, once `MIN_SKIPPED` were skipped (a share of 0: at the first
    one)."""

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._named: set[str] = set()
        self.skipped = 0
        self.seen = 0

    def note(self, batch: Batch) -> None:
        """Take account of a batch. Raises InputError when too much was skipped."""
        self.skipped += len(batch["skipped"])
        self.seen += len(batch["key"])
        for message in batch["skipped"]:
            if message not in self._named:
                self._named.add(message)
                log.warning("skipped a damaged sample (%d so far): %s", self.skipped, message)
        least = MIN_SKIPPED if self._max_share > 0 else 1
        if self.skipped >= least and self.skipped > self._max_share * self.seen:
            raise InputError(
                f"{self.skipped} damaged samples for {self.seen} good ones, more than max_skipped_share"
                f" {self._max_share} allows, the last: {(batch['skipped'] or ['-'])[-1]}"
            )


class StreamLoader(DataLoader[Any]):
    """A DataLoader over ready-made batches.

    Each time it is iterated, `begin()` says at which position a training stream starts. It raises a worker's
    InputError as it is, and leaves torch's own random numbers alone.
    """

    def __init__(
        self,
        dataset: TrainBatches | EvaluationBatches,
        ledger: SkipLedger,
        begin: Callable[[], int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,
            collate_fn=_as_it_is,
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available(),
            **options,
        )
        self._ledger = ledger
        self._begin = begin

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch promises its own iterator class
        if self._begin is not None and isinstance(self.dataset, TrainBatches):
            self.dataset.start = self._begin()
        for batch in super().__iter__():
            if isinstance(batch, InputError):
                raise batch
            self._ledger.note(batch)
            yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


class StreamProgress:
    """How far training came in the stream, in positions over all ranks.

    `done` counts what finished optimiser steps consumed; `taken` also what an unfinished one did, which a
    resumed run has to take again."""

    def __init__(self, done: int = 0) -> None:
        self.done = done
        self.taken = done
        self._step = 0

    def take(self, end: int, step: int) -> None:
        """A batch that ends before position `end` goes into training after `step` optimiser steps."""
        self.settle(step)
        self.taken = end

    def settle(self, step: int) -> None:
        """Training has made `step` optimiser steps: what was taken before the last of them is done."""
        if step != self._step:
            self.done, self._step = self.taken, step
