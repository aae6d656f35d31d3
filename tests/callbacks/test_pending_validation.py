"""An interrupted validation runs again after resuming, also at the end of training."""

import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.pending_validation import PendingValidation
from lightning_modules.checkpoint_io import WholeCheckpointIO
from lightning_modules.interruptions import StopTogether


class Validations(pl.Callback):
    """Records the steps of finished validations and the end of training; the validation at `stop_at` fails,
    or this process is sent the signal `number` in it."""

    def __init__(self, stop_at: int | None = None, number: int | None = None) -> None:
        self.stop_at, self.number, self.steps, self.ended = stop_at, number, [], False

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.stop_at:
            if self.number is None:
                raise RuntimeError("killed")
            os.kill(os.getpid(), self.number)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.steps.append(trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ended = True


def fit(folder: Path, seen: Validations, ckpt_path: Path | None = None) -> pl.Trainer:
    keep = ModelCheckpoint(dirpath=folder, every_n_train_steps=2, save_last=True, save_on_exception=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=6,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        limit_val_batches=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[WholeCheckpointIO()],
        callbacks=[PendingValidation(), seen, StopTogether(), keep],
    )
    torch.manual_seed(0)
    trainer.fit(BoringModel(), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(("number", "error"), [(None, RuntimeError), (signal.SIGTERM, SIGTERMException)])
@pytest.mark.parametrize(("stop_at", "after"), [(2, [2, 4, 6]), (4, [4, 6]), (6, [6])])
def test_interrupted_validation_runs_after_resuming(
    tmp_path: Path, stop_at: int, after: list[int], number: int | None, error: type[Exception]
):
    with pytest.raises(error):
        fit(tmp_path, Validations(stop_at, number))
    seen = Validations()
    trainer = fit(tmp_path, seen, tmp_path / "last.ckpt")
    assert seen.steps == after
    assert seen.ended
    assert trainer.global_step == trainer.max_steps == 6


def test_finished_validation_is_not_repeated(tmp_path: Path):
    class SavesAfterStep4(Validations):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            super().on_validation_end(trainer, pl_module)
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "validated.ckpt")

    seen, again = SavesAfterStep4(), Validations()
    fit(tmp_path, seen)
    assert seen.steps == [2, 4, 6]
    fit(tmp_path / "again", again, tmp_path / "validated.ckpt")
    assert again.steps == [6]


def test_checkpoints_are_written_atomically(tmp_path: Path):
    class Fails:
        def __reduce__(self):
            raise ZeroDivisionError

    io, path = WholeCheckpointIO(), tmp_path / "deep" / "last.ckpt"
    io.save_checkpoint({"a": torch.ones(3)}, path)
    with pytest.raises(ZeroDivisionError):
        io.save_checkpoint({"a": torch.zeros(3), "b": Fails()}, path)
    assert torch.load(path, weights_only=True)["a"].sum() == 3
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
