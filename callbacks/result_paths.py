"""Printing of the paths of a run's results at its end."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from callbacks.evaluation import Evaluation
from callbacks.export import Export
from callbacks.pictures import Pictures


class ResultPaths(pl.Callback):
    """Prints the paths of checkpoint, export, logs and pictures when training ends."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints a line for each result."""
        if trainer.is_global_zero:
            paths = result_paths(trainer)
            width = max((len(name) for name, _ in paths), default=0)
            for name, path in paths:
                print(f"{name:<{width}}  {path}")


def result_paths(trainer: pl.Trainer) -> list[tuple[str, Path]]:
    """(name, path) of every result that a run has written so far."""
    paths: list[tuple[str, Path | str | None]] = []
    for callback in trainer.checkpoint_callbacks:
        paths.append(("checkpoint", callback.last_model_path or callback.best_model_path))
    for callback in trainer.callbacks:
        if isinstance(callback, Export):
            paths.append(("export", callback.written))
        if isinstance(callback, Pictures | Evaluation):
            paths += [(f"picture ({name})", path) for name, path in callback.last.items()]
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            paths.append(("W&B run", Path(logger.experiment.dir).parent))
        elif isinstance(logger, CSVLogger | TensorBoardLogger):
            paths.append(("metrics", logger.log_dir))
    return [(name, Path(path)) for name, path in paths if path]
