"""Repetition of a validation that was interrupted, when the run is resumed."""

from typing import Any

import pytorch_lightning as pl


class PendingValidation(pl.Callback):
    """Records the last completed validation in checkpoints, and on resumption runs one that was due but not
    completed.

    Lightning continues training after the batch at which a checkpoint was saved, even if the validation due
    there was not completed. A run that is resumed from its last step also ends with validation and export.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.validated = 0
        self._max_steps: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Numbers of training batches now and at the last validation."""
        return {"batches": self.batches, "validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the numbers from a checkpoint."""
        self.batches, self.validated = state_dict["batches"], state_dict["validated"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prevents Lightning from ending a complete run before `on_train_start`."""
        loop = trainer.fit_loop.epoch_loop
        if self.batches and loop.max_steps > 0:
            self._max_steps = loop.max_steps
            loop.max_steps += 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Runs the validation that is due."""
        loop = trainer.fit_loop.epoch_loop
        if self._max_steps is not None:
            loop.max_steps, self._max_steps = self._max_steps, None
        if self.batches == self.validated or not self._is_due(trainer):
            return
        loop.val_loop.restarting = False
        loop.val_loop.reset_restart_stage()
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True

    def _is_due(self, trainer: pl.Trainer) -> bool:
        interval = trainer.val_check_batch
        return bool(self.batches) and interval not in (None, float("inf")) and self.batches % interval == 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Counts the batch."""
        self.batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records that this validation is complete."""
        if not trainer.sanity_checking:
            self.validated = self.batches
