"""One progress bar for the whole training, in optimiser steps."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm.auto import tqdm

LOG_INTERVAL = 30.0  # seconds between lines where the output is a file


class StepProgress(ProgressBar):
    """Steps done of `max_steps`, rate, time left, and the metrics logged with `prog_bar`; a second bar
    validates."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._validation: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Called by Lightning."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar where training stands."""
        super().on_train_start(trainer, pl_module)
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._bar = self._open("train", total, trainer.global_step, leave=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *arguments: Any) -> None:
        """Moves by one where an optimiser step was taken."""
        super().on_train_batch_end(trainer, pl_module, *arguments)
        self._bar.set_postfix(self._metrics(trainer, pl_module), refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        super().on_train_end(trainer, pl_module)
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Closes the bars."""
        super().on_exception(trainer, pl_module, exception)
        self._close()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the second bar."""
        super().on_validation_start(trainer, pl_module)
        batches = sum(n for n in trainer.num_val_batches if n != float("inf"))
        self._validation = self._open("validate", int(batches) or None, 0, leave=False)

    def on_validation_batch_end(self, *arguments: Any) -> None:
        """Moves the second bar."""
        self._validation.update()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the second bar; what was measured goes into the first."""
        super().on_validation_end(trainer, pl_module)
        self._validation.close()
        self._validation = None

    def _open(self, description: str, total: int | None, initial: int, leave: bool) -> tqdm:
        interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL
        return tqdm(
            desc=description,
            total=total,
            initial=initial,
            leave=leave,
            disable=not self._enabled,
            dynamic_ncols=True,
            mininterval=interval,
            maxinterval=interval,
        )

    def _metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = self.get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}

    def _close(self) -> None:
        for bar in (self._bar, self._validation):
            if bar is not None:
                bar.close()
        self._bar = self._validation = None
