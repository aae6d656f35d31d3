"""Pictures of validation samples, as PNG files and in the loggers."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from callbacks.media import log_picture, media_name, run_folder
from portraits.contact_sheet import grid, save_whole
from portraits.pixels import to_images


class Pictures(pl.Callback):
    """Saves and logs pictures of the first validation batch.

    The module's `pictures(batch)` returns them by name, (B, P, 3, S, S) in [-1, 1]: P pictures of each of B
    items, shown side by side. They are saved as `pictures/<name>-<step>.png` in the run's folder and logged
    as `media/<stage>/<name>`.

    Args:
        items: number of items of the batch that are shown
        columns: number of items side by side
        every_n_validations: interval, in validations
        upscale: integer factor by which pictures are enlarged
    """

    def __init__(
        self, items: int = 8, columns: int = 1, every_n_validations: int = 1, upscale: int = 2
    ) -> None:
        self.items = items
        self.columns = columns
        self.every_n_validations = every_n_validations
        self.upscale = upscale
        self.last: dict[str, Path] = {}
        self._validations = 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws on rank zero, with the weights being validated (the average, if there is one)."""
        if batch_idx or dataloader_idx or trainer.sanity_checking:
            return
        folder = run_folder(trainer) / "pictures"
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations or not trainer.is_global_zero:
            return
        first = {
            name: value[: self.items] if isinstance(value, Tensor | list) else value
            for name, value in batch.items()
        }
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            drawn = pl_module.pictures(first)
        stage = getattr(pl_module, "stage", type(pl_module).__name__)
        for name, pictures in drawn.items():
            image = grid(to_images(pictures), self.columns, self.upscale)
            self.last[name] = save_picture(image, folder, name, trainer.global_step)
            log_picture(trainer, media_name(stage, name), image)


def save_picture(image: Image.Image, folder: Path, name: str, step: int) -> Path:
    """Write `<name>-<step>.png` into a folder, which is created if missing, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{step:07d}.png"
    save_whole(image, path)
    return path
