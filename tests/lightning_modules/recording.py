"""Callbacks that record losses and interrupt training, for tests of resuming."""

import os
import signal
from typing import Any

import pytorch_lightning as pl
import torch


class Losses(pl.Callback):
    """Records the loss of every micro-batch by (optimiser step, index in the accumulation)."""

    def __init__(self) -> None:
        self.by_step: dict[tuple[int, int], float] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].item() * trainer.accumulate_grad_batches
        self.by_step[self.step, batch_idx % trainer.accumulate_grad_batches] = loss


class Terminate(pl.Callback):
    """Sends SIGTERM to this process at the start of a micro-batch, as a cluster scheduler would."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts hold the same names and values."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
