"""The last lines of a run: where its results are."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from callbacks.evaluation import Evaluation
from callbacks.export import Export
from callbacks.pictures import Pictures


class Whereabouts(pl.Callback):
    """Prints where checkpoint, export, logs and pictures are when training has ended."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints one line for each thing there is."""
        if trainer.is_global_zero:
            places = whereabouts(trainer)
            width = max((len(what) for what, _ in places), default=0)
            for what, where in places:
                print(f"{what:<{width}}  {where}")


def whereabouts(trainer: pl.Trainer) -> list[tuple[str, Path]]:
    """(what, where) of everything that a run has written so far."""
    places: list[tuple[str, Path | str | None]] = []
    for callback in trainer.checkpoint_callbacks:
        places.append(("checkpoint", callback.last_model_path or callback.best_model_path))
    for callback in trainer.callbacks:
        if isinstance(callback, Export):
            places.append(("export", callback.written))
        if isinstance(callback, Pictures | Evaluation):
            places += [(f"picture ({name})", path) for name, path in callback.last.items()]
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            places.append(("W&B run", Path(logger.experiment.dir).parent))
        elif isinstance(logger, CSVLogger | TensorBoardLogger):
            places.append(("metrics", logger.log_dir))
    return [(what, Path(where)) for what, where in places if where]
