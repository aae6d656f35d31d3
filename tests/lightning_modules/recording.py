"""Callbacks that record losses and interrupt training, for tests of resuming."""

import os
import signal
import time
from typing import Any

import pytorch_lightning as pl
import torch

from core.errors import InputError

SIGTERM = int(signal.SIGTERM)  # a default that can be saved with a run's settings
UNRESPONSIVE = 600  # seconds


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
    """Sends the signal `number` to this process, or with `group` to its process group, at the start of a
    micro-batch, as a cluster scheduler would; on rank `rank` only."""

    def __init__(self, at: int, number: int = SIGTERM, rank: int = 0, group: bool = False) -> None:
        self.at, self.number, self.rank, self.group = at, number, rank, group

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at and trainer.global_rank == self.rank:
            if self.group:
                os.killpg(0, self.number)
            else:
                os.kill(os.getpid(), self.number)


class SignalIn(pl.Callback):
    """Sends the signal `number` to this process before training begins, in the hook `hook`; on rank `rank`
    only."""

    def __init__(self, hook: str, number: int = SIGTERM, rank: int = 0) -> None:
        self.hook, self.number, self.rank = hook, number, rank

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._send("setup", trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._send("on_fit_start", trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """When Lightning has installed its own handler, and `StopTogether` has not."""
        self._send("on_train_start", trainer)

    def _send(self, hook: str, trainer: pl.Trainer) -> None:
        if hook == self.hook and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)


class KilledLauncher(pl.Callback):
    """Kills rank 0 at the start of micro-batch `at`, while other ranks do not answer."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
            if trainer.global_rank == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(UNRESPONSIVE)


class Fault(pl.Callback):
    """Raises InputError in the midst of a micro-batch on rank `rank`, as damaged data would."""

    def __init__(self, at: int, rank: int) -> None:
        self.at, self.rank = at, rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at and trainer.global_rank == self.rank:
            raise InputError(f"a fault of rank {self.rank}")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts hold the same names and values."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
