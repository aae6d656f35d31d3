"""Pictures, videos and tables of a run, sent to those of its loggers that can show them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

Rows = Sequence[Sequence[str | float]]
"""The header of a table, then its rows."""


def media_name(stage: str, kind: str) -> str:
    """The name under which a stage's pictures, videos or tables of some kind are logged."""
    return f"media/{stage}/{kind}"


def run_folder(trainer: pl.Trainer) -> Path:
    """The folder of the run's logs. All ranks have to call it: Lightning broadcasts it."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def log_picture(trainer: pl.Trainer, name: str, picture: Image.Image) -> None:
    """Log a picture to W&B and TensorBoard at the current step."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=step, caption=[f"step {step}"])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")


def log_video(trainer: pl.Trainer, name: str, path: Path, still: Image.Image) -> None:
    """Log an MP4 to W&B, and its still picture to TensorBoard, which cannot play MP4."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_video(name, [str(path)], step=step, caption=[f"step {step}"], format=["mp4"])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(still), step, dataformats="HWC")


def log_rows(
    trainer: pl.Trainer, name: str, rows: Rows, pictures: Mapping[str, Sequence[Image.Image]]
) -> None:
    """Log a table to W&B, with a column of pictures for each of `pictures`, and to TensorBoard as text."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            columns = [[wandb.Image(picture) for picture in column] for column in pictures.values()]
            data = [[*row, *own] for row, own in zip(rows[1:], zip(*columns, strict=True), strict=True)]
            logger.log_table(name, columns=[*map(str, rows[0]), *pictures], data=data, step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, markdown(rows), step)


def markdown(rows: Rows) -> str:
    """A table as Markdown."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
