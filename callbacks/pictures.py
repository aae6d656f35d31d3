"""Pictures of validation samples: on disk as PNGs, and wherever the loggers can show them."""

from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from callbacks.media import log_picture, run_folder
from portraits.contact_sheet import grid, save_whole
from portraits.pixels import to_images


class Pictured(Protocol):
    """A module that can show what it does on a validation batch."""

    def pictures(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Named sets of pictures (B, P, 3, S, S) in [-1, 1]: a row for each item, P pictures side by side."""
        ...


class Pictures(pl.Callback):
    """Draws the first `items` items of the first validation batch, every `every_n_validations`-th validation.

    PNGs lie in `pictures/` of the run's folder as `<name>-<step>.png`; `columns` items stand side by side
    in a line. Loggers have them as `media/<stage>/<name>`, with the rest of a stage's media.
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
        """Draws once a validation, on rank zero, with whatever weights the validation runs on."""
        if batch_idx or dataloader_idx or trainer.sanity_checking:
            return
        folder = run_folder(trainer) / "pictures"
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations or not trainer.is_global_zero:
            return
        few = {
            name: value[: self.items] if isinstance(value, Tensor | list) else value
            for name, value in batch.items()
        }
        with torch.no_grad():
            drawn = pl_module.pictures(few)
        stage = getattr(pl_module, "stage", type(pl_module).__name__)
        for name, pictures in drawn.items():
            image = grid(to_images(pictures), self.columns, self.upscale)
            self.last[name] = save_picture(image, folder, name, trainer.global_step)
            log_picture(trainer, f"media/{stage}/{name}", image)


def save_picture(image: Image.Image, folder: Path, name: str, step: int) -> Path:
    """`<name>-<step>.png` in a folder that is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{step:07d}.png"
    save_whole(image, path)
    return path
