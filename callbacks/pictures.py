"""Pictures of validation samples: on disk as PNGs, and wherever the loggers can show them."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor


class Pictured(Protocol):
    """A module that can show what it does on a validation batch."""

    def pictures(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Named sets of pictures (B, P, 3, S, S) in [-1, 1]: a row for each item, P pictures side by side."""
        ...


class Pictures(pl.Callback):
    """Draws the first `items` items of the first validation batch, every `every_n_validations`-th validation.

    PNGs lie in `pictures/` of the run's folder as `<name>-<step>.png`; `columns` items stand side by side
    in a line.
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
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures" if batch_idx == 0 else None
        if batch_idx or dataloader_idx or trainer.sanity_checking:
            return
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations or not trainer.is_global_zero:
            return
        few = {
            name: value[: self.items] if isinstance(value, Tensor | list) else value
            for name, value in batch.items()
        }
        with torch.no_grad():
            drawn = pl_module.pictures(few)
        for name, pictures in drawn.items():
            self._show(trainer, folder, name, grid(pictures.cpu(), self.columns, self.upscale))

    def _show(self, trainer: pl.Trainer, folder: Path, name: str, image: Image.Image) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{trainer.global_step:07d}.png"
        image.save(path)
        self.last[name] = path
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                caption = f"step {trainer.global_step}"
                logger.log_image(f"val/{name}", [image], step=trainer.global_step, caption=[caption])
            elif isinstance(logger, TensorBoardLogger):
                pixels = np.asarray(image)
                logger.experiment.add_image(f"val/{name}", pixels, trainer.global_step, dataformats="HWC")


def grid(pictures: Tensor, columns: int, upscale: int) -> Image.Image:
    """Pictures (B, P, 3, S, S) in [-1, 1] as one image: `columns` items in a line, each P pictures side by
    side."""
    items, count, _, height, width = pictures.shape
    lines = -(-items // columns)
    canvas = torch.full((lines * columns, count, 3, height, width), 255, dtype=torch.uint8)
    canvas[:items] = pictures.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    # (lines, columns, P, 3, S, S) → (lines, S, columns, P, S, 3)
    canvas = canvas.unflatten(0, (lines, columns)).permute(0, 4, 1, 2, 5, 3)
    image = Image.fromarray(canvas.reshape(lines * height, columns * count * width, 3).contiguous().numpy())
    return image.resize((image.width * upscale, image.height * upscale), Image.Resampling.NEAREST)
