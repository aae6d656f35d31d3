"""The learning rate and the gradients' norm of each optimiser step."""

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

LEARNING_RATE, GRADIENT_NORM = "train/learning_rate", "train/gradient_norm"


class OptimizerValues(pl.Callback):
    """Logs `train/learning_rate` of the first parameter group, and `train/gradient_norm`, the L2 norm of all
    gradients before they are clipped."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Logs at the trainer's interval, when gradients are accumulated and unscaled."""
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        pl_module.log(LEARNING_RATE, optimizer.param_groups[0]["lr"])
        pl_module.log(GRADIENT_NORM, torch.nn.utils.get_total_norm(gradients))
