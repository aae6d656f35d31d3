"""What trains one part of the model and hands it on: optimiser, checkpoints of that part alone, export."""

from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from core.errors import InputError
from core.model_folders import compare
from lightning_modules.networks.cards import StageCard
from lightning_modules.optimization import Learning, Optimization, rewind
from lightning_modules.parts import IN_CHECKPOINT, save_part

ExportDtype = Literal["float16", "float32"]


class TrainedPart(pl.LightningModule):
    """A module of which one submodule, named in `part`, is trained and everything else is fixed.

    A subclass names its `stage`, says in `card` what the part is, and has a hyperparameter `export_dtype`.
    """

    stage: ClassVar[str]
    part: ClassVar[str]
    learning: Learning

    @property
    def trained(self) -> ModelMixin:
        """The one module that is trained."""
        return self.get_submodule(self.part)

    @property
    @abstractmethod
    def card(self) -> StageCard:
        """Says of the trained part what it is."""

    @property
    def export_dtype(self) -> torch.dtype:
        """What the exported weights are stored in: half precision, or full."""
        return getattr(torch, self.hparams.export_dtype)

    def train(self, mode: bool = True) -> "TrainedPart":
        """Everything fixed stays in eval mode."""
        super().train(False)
        self.trained.train(mode)
        return self

    def log_mean(self, name: str, values: Tensor, weights: Tensor, prog_bar: bool = False) -> None:
        """Logs the mean over an epoch of values (B,), counting each by its weight (B,)."""
        count = int(weights.sum())
        mean = (values * weights).sum() / max(count, 1)
        self.log(
            name, mean, batch_size=count, prog_bar=prog_bar, sync_dist=True, on_step=False, on_epoch=True
        )

    def configure_optimizers(self) -> Optimization:
        """AdamW on the trained part."""
        return self.learning.configure(self.trained.parameters(), self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the trained part only, and says what it is."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k.startswith(f"{self.part}.")}
        checkpoint[IN_CHECKPOINT] = asdict(self.card)
        rewind(checkpoint, self.trainer.accumulate_grad_batches)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint is this stage's, trained with these fixed parts, and adds them.

        Raises InputError otherwise.
        """
        where = "the checkpoint"
        if self._trainer is not None and self._trainer.training and "optimizer_states" not in checkpoint:
            raise InputError(
                f"{where} holds weights alone, and a run cannot go on from it: take one with the optimiser "
                "in it; the next stage takes either"
            )
        StageCard.parse(checkpoint.get(IN_CHECKPOINT, {}), where).check_same_run(self.card, where)
        own, prefix = self.state_dict(), f"{self.part}."
        wanted = {name: tuple(x.shape) for name, x in own.items() if name.startswith(prefix)}
        compare(wanted, checkpoint["state_dict"], where)
        checkpoint["state_dict"] = own | checkpoint["state_dict"]

    def export(self, folder: Path) -> None:
        """The trained part as a folder for what comes after. Raises InputError where it exists."""
        save_part(self.trained, self.card, folder, self.export_dtype)
