"""Two real ranks (gloo, on the CPU) train every stage; test_stage.py compares what they log with one rank."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pytorch_lightning.strategies import DDPStrategy

from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.portrait import CONTROL, REFERENCE, save_portrait_model
from lightning_modules.noise_prior import NoisePriorStage
from lightning_modules.optimization import Learning
from lightning_modules.trained_part import TrainedPart
from lightning_modules.view_consistency import ViewConsistencyStage
from lightning_modules.view_control import ViewControlStage
from tests.networks.toy import toy_model, toy_prior


def stage1(folder: Path) -> TrainedPart:
    return AppearanceStage(str(folder), learning=Learning(1e-3))


def stage2(folder: Path) -> TrainedPart:
    return ViewControlStage(str(folder), str(folder / REFERENCE), learning=Learning(1e-3))


def stage3(folder: Path) -> TrainedPart:
    """V with a module that no training step runs."""
    parts = str(folder), str(folder / REFERENCE), str(folder / CONTROL)
    return ViewConsistencyStage(*parts, middle="unconditional", fewer_views=True, learning=Learning(1e-3))


def noise_prior(folder: Path) -> TrainedPart:  # noqa: ARG001
    return NoisePriorStage(toy_prior(), learning=Learning(1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("make", [stage1, stage2, stage3, noise_prior])
def test_ten_steps_on_two_ranks(
    make: Callable[[Path], TrainedPart], make_data, make_trainer, tmp_path: Path
) -> None:
    save_portrait_model(toy_model(), str(tmp_path / "toy"))
    stage = make(tmp_path / "toy")
    before = {name: x.clone() for name, x in stage.trained.state_dict().items()}
    strategy = DDPStrategy(start_method="spawn", gradient_as_bucket_view=True)  # as at full size
    trainer = make_trainer(
        devices=2,
        strategy=strategy,
        max_steps=10,
        accumulate_grad_batches=2,
        limit_val_batches=1.0,
        val_check_interval=20,
    )
    trainer.fit(stage, make_data(conditions=True, batch_size=1))
    assert trainer.global_step == 10
    assert "val/loss" in trainer.callback_metrics
    after = stage.trained.state_dict()
    assert any((after[name] != before[name]).any() for name in before)
