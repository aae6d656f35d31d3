"""The shipped weights on shipped portraits of people that no part of them was trained on."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules import PortraitViewsDataModule, SourceConfig
from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.portrait import REFERENCE
from lightning_modules.parts import load_part
from lightning_modules.pool import read_images, to_unit

MODEL = Path(__file__).parents[1] / "checkpoints/mini"
PEOPLE = Path(__file__).parent / "data/people"


@pytest.fixture(scope="module")
def stage() -> AppearanceStage:
    """Stage 1 on the shipped backbone, its F_ref as it starts: a copy of F."""
    return AppearanceStage(backbone=str(MODEL)).eval()


def validate(stage: AppearanceStage) -> dict[str, float]:
    """The validation losses over the eight people that `PEOPLE` keeps for it."""
    sources = {"people": SourceConfig(urls=str(PEOPLE))}
    data = PortraitViewsDataModule(
        sources, image_size=64, batch_size=8, targets=8, conditions=False, num_workers=0, val_frames=8
    )
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    return trainer.validate(stage, data, verbose=False)[0]


def test_the_autoencoder_keeps_unseen_heads(stage: AppearanceStage) -> None:
    images = to_unit(read_images(PEOPLE, "val"))[::4]
    with torch.no_grad():
        again = stage.decode(stage.encode(images))
    mse = (again - images).div(2).square().mean((1, 2, 3))
    assert float((-10 * mse.log10()).mean()) > 27


def test_the_right_portrait_denoises_unseen_people_better_than_another_person_s(
    stage: AppearanceStage,
) -> None:
    """Stage 1 has learned what it is for: and the copy of F that it started from had not."""
    copied = validate(stage)
    load_part(stage.reference, str(MODEL / REFERENCE), "appearance", stage.fingerprint)
    trained = validate(stage)
    assert trained["val/reference_gain"] > 0
    assert trained["val/loss"] < copied["val/loss"]


def test_what_is_shipped_is_small() -> None:
    backbone = [path for path in MODEL.rglob("*.safetensors") if REFERENCE not in path.parts]
    assert sum(path.stat().st_size for path in backbone) <= 20e6
    assert sum(path.stat().st_size for path in MODEL.rglob("*")) <= 40e6
