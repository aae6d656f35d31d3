"""Export of the trained part, with averaged weights, at the end of training."""

from contextlib import nullcontext
from pathlib import Path

import pytorch_lightning as pl

from callbacks.media import run_folder
from callbacks.weight_average import WeightAverage
from core.errors import InputError


class Export(pl.Callback):
    """Calls the module's `export(folder)` at the end of training, by default with `export/` in the run's
    folder.

    Raises InputError before training if `folder` exists already.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.written: Path | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raises InputError if `folder` exists already."""
        if self.folder is not None and self.folder.exists() and not trainer.fast_dev_run:
            raise InputError(f"{self.folder} exists already: remove it, or set Export's folder to another")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the folder on rank zero; not in a `fast_dev_run`."""
        folder = self.folder or run_folder(trainer) / "export"
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        average = next((c for c in trainer.callbacks if isinstance(c, WeightAverage)), None)
        with average.averaged(pl_module) if average else nullcontext():
            pl_module.export(folder)
        self.written = folder
