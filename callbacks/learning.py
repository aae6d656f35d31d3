"""How the optimiser is doing: learning rate and gradient norm."""

import pytorch_lightning as pl
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class LearningLog(pl.Callback):
    """Logs `train/learning_rate`, of the first parameter group, and `train/gradient_norm`, over all
    parameters before they are clipped, at the trainer's interval."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Logs the step that comes."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            pl_module.log("train/learning_rate", optimizer.param_groups[0]["lr"])
            pl_module.log("train/gradient_norm", get_total_norm(gradients))
