"""Throughput of training, and the time spent waiting for data."""

import time
from typing import Any

import pytorch_lightning as pl
import torch

IMAGES_PER_SECOND, DATA_WAIT = "train/images_per_second", "train/data_wait"


class Throughput(pl.Callback):
    """Logs `train/images_per_second` of this rank and `train/data_wait`, the share of time spent waiting
    for batches.

    Both are over the batches since the last logging. Images are counted in the batch's tensor `count`, or in
    its cached latents: the product of all dimensions except the last three.
    """

    def __init__(self, count: str = "target") -> None:
        self.count = count
        self._images = 0
        self._waited = self._since = self._idle_since = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._start()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Adds the time since the last batch to the waiting time."""
        self._waited += time.perf_counter() - self._idle_since

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        """Count the batch's images, and log their rate at the trainer's interval."""
        counted = batch[self.count if self.count in batch else f"{self.count}_moments"]
        self._images += torch.Size(counted.shape[:-3]).numel()
        now = time.perf_counter()
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            elapsed = now - self._since
            pl_module.log(IMAGES_PER_SECOND, self._images / elapsed, prog_bar=True)
            pl_module.log(DATA_WAIT, self._waited / elapsed)
            self._start()
        self._idle_since = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restarts the clock, as validation is neither training nor waiting."""
        self._start()

    def _start(self) -> None:
        self._since = self._idle_since = time.perf_counter()
        self._waited = 0.0
        self._images = 0
