"""Everything that runs on a card is run on a simulated one: a tensor elsewhere, or of another dtype, ends it.

"cuda", and "mps" as a card without float64, which is what Apple's lack.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.generators import KIND_NAMES
from benchmarks.generators import build as build_generator
from core.simulated_device import autocast, simulated_device
from lightning_modules.memory import RUNS, config_flags, training_run
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.noise_prior import NoisePriorStage
from lightning_modules.step_memory import (
    SamplingRun,
    TrainingRun,
    build,
    sample_once,
    unloaded_pipeline,
)
from lightning_modules.unloaded import BatchSize, training_loss
from lightning_modules.view_consistency import ViewConsistencyStage
from portraits.cameras import label_from_angles
from tests.networks.toy import toy_model, toy_prior

CARD = torch.device("cuda:0")
PARTS = {"appearance": "none", "control": "none", "middle": "unconditional"}


def check_run(described: TrainingRun) -> None:
    """A training step's loss, a validation step and pictures of a stage on the card."""
    module, batch = build(described, CARD)
    with autocast(str(CARD), described.dtype):
        assert training_loss(module, batch).device == CARD
        with torch.no_grad():
            module.validation_step(batch, 0)
            shown = module.pictures(batch)
    assert module._means.compute()
    assert all(images.device.type == "cuda" for images in shown.values())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_v_s_stage_at_toy_size(dtype: torch.dtype | None, backbone: Path):
    settings = {"backbone": str(backbone), "sample_steps": 1, **PARTS}
    settings["frozen_dtype"] = "float32" if dtype is None else "bfloat16"
    with simulated_device(float64=False):
        check_run(TrainingRun("toy", ViewConsistencyStage, settings, BatchSize(2, 2, 4, 16), dtype, True))


def prior_settings() -> dict[str, object]:
    return {name: value for name, value in toy_prior().config.items() if not name.startswith("_")}


def test_s_at_toy_size():
    settings = {"prior": prior_settings()}
    with simulated_device():
        check_run(TrainingRun("toy", NoisePriorStage, settings, BatchSize(2, 2, 4, 16), torch.bfloat16, True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_sampling_at_toy_size(dtype: torch.dtype, tmp_path: Path):
    save_portrait_model(toy_model(), str(tmp_path / "toy"))
    with simulated_device():
        with CARD:
            pipeline = unloaded_pipeline(dtype, prior_settings(), str(tmp_path / "toy"))
        assert sample_once(pipeline, SamplingRun(window=3), steps=2).shape == (1, 3, 3, 16, 16)


@pytest.mark.slow
@pytest.mark.parametrize("files", RUNS, ids=lambda files: files[0])
def test_every_stage_at_full_size(files: tuple[str, ...]):
    described = training_run(config_flags(files))
    steps = {"sample_steps": 1} if "sample_steps" in described.settings else {}
    s = described.stage is NoisePriorStage  # whose volume rendering takes float64 where there is any
    with simulated_device(float64=s):
        check_run(replace(described, settings=described.settings | steps))


@pytest.mark.slow
def test_sampling_at_full_size():
    prior = training_run(config_flags(RUNS[-1])).settings["prior"]
    with simulated_device(), torch.no_grad():
        with CARD:
            pipeline = unloaded_pipeline(torch.float16, prior)
        assert sample_once(pipeline, SamplingRun()).shape == (1, 8, 3, 512, 512)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_both_generators_at_full_size(kind: str):
    with simulated_device(), torch.no_grad():
        generator = build_generator(kind, "published", str(CARD))
        camera = torch.from_numpy(label_from_angles(0.2, 0.1)).to(CARD)[None]
        ws = generator.styles(torch.zeros(1, generator.architecture.latent).to(CARD), camera, 0.7)
        views = generator.views(generator.identity(ws), camera[None])
    assert views.image.device == CARD
    assert views.image.shape == (1, 1, 3, 512, 512)
