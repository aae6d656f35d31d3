"""The shipped weights on portraits of people that no part of them was trained on."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from core.model_folders import load_model
from datamodules import PortraitViewsDataModule, SourceConfig
from datamodules.pool import read_images
from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.portrait import CONTROL, CROSS_VIEW, NOISE_PRIOR, REFERENCE
from lightning_modules.noise_prior import NoisePriorStage
from lightning_modules.parts import load_part
from lightning_modules.view_consistency import ViewConsistencyStage
from lightning_modules.view_control import ViewControlStage
from portraits.pixels import levels_to_pixels

MODEL = Path(__file__).parents[1] / "checkpoints/mini"
PEOPLE = Path(__file__).parent / "data/studio"


@pytest.fixture(scope="module")
def stage() -> AppearanceStage:
    """Stage 1 on the shipped backbone, with an untrained F_ref (a copy of F)."""
    return AppearanceStage(backbone=str(MODEL)).eval()


def validate(stage: pl.LightningModule, conditions: bool = False, frames: int = 4) -> dict[str, float]:
    """Validation metrics over the first validation people of `PEOPLE`."""
    sources = {"people": SourceConfig(urls=str(PEOPLE))}
    data = PortraitViewsDataModule(
        sources,
        image_size=128,
        batch_size=frames,
        targets=4,
        conditions=conditions,
        num_workers=0,
        val_frames=frames,
    )
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    return trainer.validate(stage, data, verbose=False)[0]


def test_autoencoder_reconstructs_unseen_heads(stage: AppearanceStage) -> None:
    images = levels_to_pixels(read_images(PEOPLE, "val").rows)[::4]
    with torch.no_grad():
        again = stage.decode(stage.encode(images))
    mse = (again - images).div(2).square().mean((1, 2, 3))
    assert float((-10 * mse.log10()).mean()) > 27


def test_trained_reference_lowers_the_loss_on_unseen_people(
    stage: AppearanceStage,
) -> None:
    """The right portrait denoises better than another's, and the loss is below the untrained F_ref's."""
    copied = validate(stage)
    load_part(stage.reference, str(MODEL / REFERENCE), "appearance", stage.fingerprint)
    trained = validate(stage)
    assert trained["val/reference_gain"] > 0
    assert trained["val/loss"] < copied["val/loss"]


def test_conditions_and_other_views_lower_the_loss() -> None:
    """The gains of F_cam (stage 2) and V (stage 3) are positive, and zero for untrained ones."""
    parts = {"appearance": str(MODEL / REFERENCE), "control": str(MODEL / CONTROL)}
    stage = ViewConsistencyStage(backbone=str(MODEL), positions=0, attentions=1, ff_mult=2, **parts).eval()
    without = validate(stage, conditions=True, frames=2)
    load_part(stage.denoiser.cross_view, str(MODEL / CROSS_VIEW), "view_consistency", stage.fingerprint)
    trained = validate(stage, conditions=True, frames=2)
    assert without["val/views_gain"] == pytest.approx(0, abs=1e-5)
    assert trained["val/views_gain"] > 0
    assert trained["val/loss"] < without["val/loss"]
    turned = ViewControlStage(backbone=str(MODEL), appearance=parts["appearance"]).eval()
    untrained = validate(turned, conditions=True, frames=2)
    load_part(turned.denoiser.control, parts["control"], "view_control", turned.fingerprint)
    found = validate(turned, conditions=True, frames=2)
    assert found["val/condition_gain"] > 1e-3 > abs(untrained["val/condition_gain"])
    assert found["val/loss"] < untrained["val/loss"]


def test_noise_prior_beats_copying_the_portrait() -> None:
    """S's views of unseen people are at least 3 dB nearer to the truth than the portrait is."""
    prior = load_model(NoisePrior, MODEL / NOISE_PRIOR, torch.float32)
    found = validate(NoisePriorStage(prior).eval())
    assert found["val/PSNR"] > found["val/PSNR_reference"] + 3


def test_shipped_model_is_small() -> None:
    backbone = [path for path in MODEL.rglob("*.safetensors") if {"vae", "unet"} & set(path.parts)]
    assert sum(path.stat().st_size for path in backbone) <= 20e6
    assert sum(path.stat().st_size for path in MODEL.rglob("*")) <= 60e6
