"""AdamW with warm-up, and the random generators of training steps."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypedDict

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from core.errors import InputError
from core.seeding import torch_generator

FINAL_FRACTION = 0.02
# bitsandbytes keeps the moments of tensors of so many values as bytes, with a float32 scale for each block.
LEAST_8BIT, BLOCK_8BIT = 4096, 256

OptimizerName = Literal["adamw", "adamw8bit"]


class StepSchedule(TypedDict):
    """A per-step learning rate schedule in Lightning's format."""

    scheduler: LambdaLR
    interval: Literal["step"]


class Optimization(TypedDict):
    """The return value of `configure_optimizers`."""

    optimizer: Optimizer
    lr_scheduler: StepSchedule


@dataclass(frozen=True)
class Learning:
    """The learning rate: linear warm-up to `rate`, then constant, or a cosine decay to 2 % of it at the
    trainer's max_steps.

    `weight_decay` applies to matrices and kernels, not to biases and norms. `optimizer` is "adamw", or
    "adamw8bit", bitsandbytes' AdamW with 8-bit moments, which take a quarter of the memory.
    """

    rate: float = 1e-5
    decay: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    optimizer: OptimizerName = "adamw"

    def check(self) -> None:
        """Raise InputError where the optimiser's package is missing."""
        if self.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
            raise InputError(
                "learning.optimizer adamw8bit needs bitsandbytes: pip install -e '.[adamw8bit]', or set adamw"
            )

    def configure(self, parameters: Iterable[nn.Parameter], max_steps: int) -> Optimization:
        """The optimiser of these parameters. Raises InputError for a cosine decay without max_steps."""
        if self.decay == "cosine" and max_steps < 1:
            raise InputError(
                "a cosine learning rate ends at trainer.max_steps: set it, or learning.decay to constant"
            )
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = self._optimizer([group for group in groups if group["params"]])
        scheduler = LambdaLR(optimizer, lambda step: self.factor(step, max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _optimizer(self, groups: Sequence[dict[str, Any]]) -> Optimizer:
        if self.optimizer == "adamw8bit":
            self.check()
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(groups, lr=self.rate)
        on_gpu = groups[0]["params"][0].device.type == "cuda"
        # Unfused, a step takes temporary tensors of the size of all parameters.
        return AdamW(groups, lr=self.rate, fused=on_gpu or None)

    def state_bytes(self, parameters: Iterable[nn.Parameter]) -> int:
        """The bytes of both moments of these parameters."""
        sizes = [p.numel() for p in parameters]
        if self.optimizer == "adamw":
            return sum(2 * 4 * size for size in sizes)
        return sum(
            2 * 4 * size if size < LEAST_8BIT else 2 * (size + 4 * math.ceil(size / BLOCK_8BIT))
            for size in sizes
        )

    def factor(self, step: int, max_steps: int) -> float:
        """The rate at `step`, as a fraction of `rate`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps))
        return FINAL_FRACTION + (1 - FINAL_FRACTION) * 0.5 * (1 + math.cos(math.pi * done))


def step_generator(module: pl.LightningModule, seed: int | str, batch_idx: int) -> torch.Generator:
    """The generator of a micro-batch: a function of seed, optimiser step and position in the accumulation,
    the same on every rank. Draws per frame of a stream use `core.seeding.stream_generators`."""
    trainer = module.trainer
    micro = batch_idx % trainer.accumulate_grad_batches
    # without the last part of the key, draws would differ from those of earlier releases
    return torch_generator(seed, "train", trainer.global_step, micro, 0)


def rewind(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Let a checkpoint from within a gradient accumulation resume at the accumulation's first micro-batch.

    Checkpoints do not hold accumulated gradients: if micro-batches were counted as done, the step would lack
    them. The data stream's state is also that of the last complete step.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    odd = progress["current"]["processed"] % accumulate
    for counts in (progress["current"], progress["total"]):
        for name, count in counts.items():
            counts[name] = count - odd
