"""Exponential moving average of the trainable parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.lists import shortened


class WeightAverage(pl.Callback):
    """Keeps an average of the trainable parameters, validates with it, and stores it in the checkpoint.

    After n optimiser steps the decay is min(`decay`, (1 + n) / (10 + n)), so that the initial weights lose
    their influence early. The module's weights in a checkpoint are always those being trained.

    Args:
        decay: of one optimiser step, in [0, 1).
        device: "same" keeps the average on the parameters' device; "cpu" keeps it in CPU memory, and during
            validation the weights being trained as well.
        every_n_steps: interval of updates in optimiser steps; each update uses `decay` to that power.
    """

    def __init__(
        self, decay: float = 0.999, device: Literal["same", "cpu"] = "same", every_n_steps: int = 1
    ) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"WeightAverage: decay is {decay}, not in [0, 1)")
        if every_n_steps < 1:
            raise InputError(f"WeightAverage: every_n_steps is {every_n_steps}: give 1 or more")
        self.decay = decay
        self.device = device
        self.every_n_steps = every_n_steps
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts from the current weights, or from a checkpoint's average."""
        parameters = trainable(pl_module)
        if not self.average:
            self.average = self._copy(parameters)
        if self.average.keys() != parameters.keys():
            odd = sorted(self.average.keys() ^ parameters.keys())
            raise InputError(f"the checkpoint's average has other parameters: {shortened(odd)}")
        self.average = {name: self._placed(x, parameters[name]) for name, x in self.average.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Updates every `every_n_steps` optimiser steps, independent of the number of micro-batches."""
        steps = trainer.global_step - self.updates
        if steps < self.every_n_steps:
            return
        self.updates = trainer.global_step
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) ** steps
        parameters = trainable(pl_module)
        now = [self._placed(parameters[name].detach(), parameters[name]) for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), now, 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces the weights being trained by the average."""
        if self.average:
            self._swap_in(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the weights being trained, before any checkpoint is written."""
        self._swap_out(pl_module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """As `on_validation_end`, so that the checkpoint of an interrupted validation holds the weights being
        trained."""
        self._swap_out(pl_module)

    @contextmanager
    def averaged(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """Use the average in the block instead of the weights being trained."""
        self._swap_in(pl_module)
        try:
            yield
        finally:
            self._swap_out(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a checkpoint's average."""
        self.average, self.updates = dict(state_dict["average"]), state_dict["updates"]

    @torch.no_grad()
    def _swap_in(self, pl_module: pl.LightningModule) -> None:
        parameters = trainable(pl_module)
        self._trained = self._copy(parameters)
        _assign(parameters, self.average)

    @torch.no_grad()
    def _swap_out(self, pl_module: pl.LightningModule) -> None:
        if self._trained is not None:
            _assign(trainable(pl_module), self._trained)
            self._trained = None

    def _placed(self, value: Tensor, parameter: nn.Parameter) -> Tensor:
        """A value of a parameter where the average is kept."""
        return value.to("cpu" if self.device == "cpu" else parameter.device)

    def _copy(self, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        return {
            name: torch.empty_like(p, device="cpu" if self.device == "cpu" else p.device).copy_(p)
            for name, p in ((name, p.detach()) for name, p in parameters.items())
        }


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's trainable parameters by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _assign(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    torch._foreach_copy_([parameters[name] for name in values], list(values.values()))
