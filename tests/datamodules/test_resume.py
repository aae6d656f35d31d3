"""A resumed run trains on the same batches as an uninterrupted one, also on several ranks."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from datamodules import PortraitViewsDataModule

Make = Callable[..., PortraitViewsDataModule]


class Recorder(pl.LightningModule):
    """A module of one weight, fitted to the mean of the images, that records batches and losses."""

    def __init__(self, stop_at: int = -1, log_to: str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.stop_at = stop_at
        self.log_to = log_to
        self.fed: list[tuple[list[int], list[str]]] = []
        self.losses: list[float] = []

    def training_step(self, batch: dict[str, Any]) -> Tensor:
        """Squared error to the mean of the targets."""
        if len(self.fed) == self.stop_at:
            raise KeyboardInterrupt
        loss = (batch["target"].mean() - self.weight).square()
        self.fed.append((batch["position"].tolist(), batch["key"]))
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: dict[str, Any], _batch_idx: int) -> None:
        """Count the valid frames."""
        self.log("val/frames", batch["valid"].sum().float(), reduce_fx="sum", sync_dist=True, batch_size=1)

    def on_fit_end(self) -> None:
        """Write this rank's batches into a file."""
        if self.log_to is not None:
            Path(f"{self.log_to}{self.global_rank}.json").write_text(json.dumps(self.fed))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, so that resuming needs its state."""
        return torch.optim.Adam(self.parameters(), 0.1)


def fit(
    folder: Path, data: PortraitViewsDataModule, module: Recorder, ckpt: Path | None = None, **options: Any
) -> Path:
    """Train with a checkpoint at every step and return the last one's path."""
    callback = ModelCheckpoint(
        folder, every_n_train_steps=1, save_top_k=-1, filename="{step}", save_last=True
    )
    trainer = pl.Trainer(
        **{
            "max_steps": 8,
            "accumulate_grad_batches": 2,
            "val_check_interval": 3,
            "accelerator": "cpu",
            **options,
        },
        callbacks=[callback],
        check_val_every_n_epoch=None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=ckpt)
    return Path(callback.last_model_path)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resume_repeats_batches_and_losses(make: Make, tmp_path: Path, workers: int) -> None:
    straight, before, after = Recorder(), Recorder(), Recorder()
    fit(tmp_path / "a", make(num_workers=workers), straight)
    last = fit(tmp_path / "b", make(num_workers=workers), before, max_steps=3)
    fit(tmp_path / "b", make(num_workers=workers), after, last)
    assert before.fed + after.fed == straight.fed
    assert before.losses + after.losses == straight.losses
    assert [p for positions, _ in straight.fed for p in positions] == list(range(32))


def test_run_stopped_within_a_step_repeats_its_batches(make: Make, tmp_path: Path) -> None:
    straight, before, after = Recorder(), Recorder(stop_at=7), Recorder()
    fit(tmp_path / "a", make(), straight)
    with pytest.raises(SystemExit):
        fit(tmp_path / "b", make(), before)
    fit(tmp_path / "b", make(), after, tmp_path / "b" / "step=3.ckpt")
    assert before.fed[:6] + after.fed == straight.fed
    assert before.losses[:6] + after.losses == straight.losses


def test_resuming_with_another_batch_size_continues_the_stream(make: Make, tmp_path: Path) -> None:
    before, after = Recorder(), Recorder()
    last = fit(tmp_path, make(batch_size=2), before, max_steps=3)
    fit(tmp_path, make(batch_size=3), after, last, max_steps=5)
    assert [p for positions, _ in before.fed + after.fed for p in positions] == list(range(24))


def test_limited_epochs_continue_the_stream(make: Make, tmp_path: Path) -> None:
    module = Recorder()
    fit(tmp_path, make(), module, limit_train_batches=3, max_epochs=4, max_steps=-1, val_check_interval=None)
    assert [p for positions, _ in module.fed for p in positions] == list(range(24))


def test_resuming_on_another_stream_warns(make: Make, tmp_path: Path) -> None:
    last = fit(tmp_path, make(), Recorder(), max_steps=1)
    with pytest.warns(UserWarning, match="another data stream"):
        fit(tmp_path, make(seed=1), Recorder(), last, max_steps=2)


def test_new_fit_starts_at_position_zero(make: Make, tmp_path: Path) -> None:
    data = make()
    fit(tmp_path, data, Recorder(), max_steps=1)
    module = Recorder()
    fit(tmp_path, data, module, max_steps=1)
    assert module.fed[0][0] == [0, 1]


@pytest.mark.slow
def test_two_processes_resume_the_stream_of_one(make: Make, tmp_path: Path) -> None:
    """Real gloo processes; one process with twice the batch size has the same stream and position."""
    alone = Recorder()
    fit(tmp_path / "alone", make(batch_size=4, val_frames=13), alone, max_steps=4)
    last = fit(tmp_path / "first", make(batch_size=4), Recorder(), max_steps=2)
    two = {"strategy": "ddp_spawn", "devices": 2, "max_steps": 4}
    fit(tmp_path / "two", make(val_frames=13), Recorder(log_to=str(tmp_path / "rank")), last, **two)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    together = list(itertools.chain.from_iterable(zip(*ranks, strict=True)))
    assert [[p, k] for part in together for p, k in zip(*part, strict=True)] == [
        [p, k] for part in alone.fed[4:] for p, k in zip(*part, strict=True)
    ]
