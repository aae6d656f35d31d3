"""A run's folder, and its pictures and tables in whatever its loggers can show."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

Rows = Sequence[Sequence[str | float]]
"""A header, and a row for each thing."""


def run_folder(trainer: pl.Trainer) -> Path:
    """Where the run's logs lie. Called on all ranks: they agree on it."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def log_picture(trainer: pl.Trainer, name: str, picture: Image.Image) -> None:
    """A picture to W&B and TensorBoard, at the training's step."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=step, caption=[f"step {step}"])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")


def log_video(trainer: pl.Trainer, name: str, path: Path, still: Image.Image) -> None:
    """An MP4 to W&B; TensorBoard, which plays none, has a picture of it."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_video(name, [str(path)], step=step, caption=[f"step {step}"], format=["mp4"])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(still), step, dataformats="HWC")


def log_rows(trainer: pl.Trainer, name: str, rows: Rows, pictures: dict[str, Sequence[Image.Image]]) -> None:
    """A table to W&B, each row with its pictures by column, and to TensorBoard as text."""
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
    """Rows as a Markdown table."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
