"""Base class of modules that train one part of the model: optimiser, checkpoints of that part, export."""

from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from core.errors import InputError
from core.tensors import compare
from lightning_modules.epoch_means import EpochMeans
from lightning_modules.networks.provenance import StageCard
from lightning_modules.optimization import Learning, Optimization, rewind
from lightning_modules.parts import IN_CHECKPOINT, save_part

ExportDtype = Literal["float16", "float32"]


class TrainedPart(pl.LightningModule):
    """A module with one trained submodule, named in `part`; everything else is fixed.

    A subclass sets its `stage`, returns the part's provenance metadata in `card`, and has a hyperparameter
    `export_dtype`.
    """

    stage: ClassVar[str]
    part: ClassVar[str]
    learning: Learning

    def __init__(self) -> None:
        super().__init__()
        self._means = EpochMeans()
        self._shown: set[str] = set()

    @property
    def trained(self) -> ModelMixin:
        """The trained submodule."""
        return self.get_submodule(self.part)

    @property
    @abstractmethod
    def card(self) -> StageCard:
        """Provenance metadata of the trained part."""

    @property
    def export_dtype(self) -> torch.dtype:
        """Data type of exported weights: half or full precision."""
        return getattr(torch, self.hparams.export_dtype)

    def train(self, mode: bool = True) -> "TrainedPart":
        """Keeps everything fixed in evaluation mode."""
        super().train(False)
        self.trained.train(mode)
        return self

    def log_mean(self, name: str, values: Tensor, weights: Tensor, prog_bar: bool = False) -> None:
        """Logs the mean of values (B,) with weights (B,) over a validation epoch and all ranks. Names of
        total weight 0 are not logged."""
        self._means.add(name, values, weights)
        if prog_bar:
            self._shown.add(name)

    def on_validation_epoch_start(self) -> None:
        """Resets the means for this validation."""
        self._means.reset()

    def on_validation_epoch_end(self) -> None:
        """Logs the means of this validation, the same on every rank."""
        for name, mean in self._means.compute(self._sum_over_ranks).items():
            self.log(name, mean, prog_bar=name in self._shown, batch_size=1, sync_dist=True)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        """Sum a float64 tensor over all ranks. With a single rank it stays on the CPU, as MPS has no
        float64."""
        if self.trainer.world_size == 1:
            return values
        return self.trainer.strategy.reduce(values.to(self.device), reduce_op="sum")

    def configure_optimizers(self) -> Optimization:
        """AdamW on the trained part."""
        trained = [p for p in self.trained.parameters() if p.requires_grad]
        return self.learning.configure(trained, self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps only the trained part, and adds its card."""
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
                f"{where} holds only weights, and a run cannot be resumed from it: use one with the "
                "optimiser's state; the next stage accepts both"
            )
        StageCard.parse(checkpoint.get(IN_CHECKPOINT, {}), where).check_same_run(self.card, where)
        own, prefix = self.state_dict(), f"{self.part}."
        wanted = {name: tuple(x.shape) for name, x in own.items() if name.startswith(prefix)}
        compare(wanted, checkpoint["state_dict"], where)
        checkpoint["state_dict"] = own | checkpoint["state_dict"]

    def export(self, folder: Path) -> None:
        """Write the trained part as a folder for later stages. Raises InputError if it exists."""
        save_part(self.trained, self.card, folder, self.export_dtype)
