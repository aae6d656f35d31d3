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
from lightning_modules.epoch_means import EpochMeans
from lightning_modules.networks.provenance import StageCard
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

    def __init__(self) -> None:
        super().__init__()
        self._means = EpochMeans()
        self._shown: set[str] = set()

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
        """Logs the mean over a validation epoch, and over all ranks, of values (B,), counting each by its
        weight (B,). A name of which nothing counts is not logged."""
        self._means.add(name, values, weights)
        if prog_bar:
            self._shown.add(name)

    def on_validation_epoch_start(self) -> None:
        """Begins the means of this validation."""
        self._means.reset()

    def on_validation_epoch_end(self) -> None:
        """Logs the means of this validation, the same on every rank."""
        for name, mean in self._means.compute(self._sum_over_ranks).items():
            self.log(name, mean, prog_bar=name in self._shown, batch_size=1, sync_dist=True)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        """A float64 tensor summed over all ranks. With one it stays on the CPU: MPS has no float64."""
        if self.trainer.world_size == 1:
            return values
        return self.trainer.strategy.reduce(values.to(self.device), reduce_op="sum")

    def configure_optimizers(self) -> Optimization:
        """AdamW on the trained part."""
        trained = [p for p in self.trained.parameters() if p.requires_grad]
        return self.learning.configure(trained, self.trainer.max_steps)

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
        """The trained part as a folder for what comes after. Raises InputError if it exists."""
        save_part(self.trained, self.card, folder, self.export_dtype)
