"""Every stage, sampling and the generators on simulated GPUs of NVIDIA and Apple, at toy and at full size.

A tensor on the wrong device or of the wrong dtype ends a test. Apple's GPU is simulated as a device without
float64, as PyTorch's CPU and CUDA builds refuse operations on "mps".
"""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from core.simulated_device import autocast, simulated_device
from generators.gan.architecture import Architecture, Kind, Settings
from generators.gan.folder import KINDS
from generators.gan.generator import Generator, Rendering
from lightning_modules.appearance import AppearanceStage
from lightning_modules.memory import RUNS, config_flags, training_run
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.noise_prior import NoisePriorStage
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from lightning_modules.stage import Batch, Stage
from lightning_modules.step_memory import TrainingRun, build, unloaded_pipeline
from lightning_modules.trained_part import TrainedPart
from lightning_modules.unloaded import BatchSize, training_loss
from lightning_modules.view_consistency import ViewConsistencyStage, split_views
from lightning_modules.view_control import ViewControlStage
from portraits.cameras import label_from_angles
from tests.generators.toy_generators import toy_architecture, toy_settings
from tests.networks.toy import toy_model, toy_prior
from tests.parity.recipe import key_list

GPU = "cuda:0"
DEVICES = ("cuda", "mps")
FULL_SIZE = pytest.mark.slow
# The device without float64 is the stricter one. On the other, stages run in bf16-mixed, as S does in its
# fast test.
STRICTER = pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=pytest.mark.slow), "mps"], indirect=True
)
STAGE3 = {"appearance": "none", "control": "none", "middle": "unconditional"}
STAGES = {
    "stage 1": (AppearanceStage, {"reference_timestep": "current"}),
    "stage 2": (ViewControlStage, {"appearance": "none"}),
    "stage 3": (ViewConsistencyStage, STAGE3),
}

VALIDATED = {
    "appearance": {"val/loss", "val/reference_gain", "val/portrait_gain"},
    "view_control": {"val/loss", "val/reference_gain", "val/condition_gain"},
    "view_consistency": {"val/loss", "val/reference_gain", "val/views_gain"},
    "noise_prior": {"val/loss", "val/PSNR"},
}


@pytest.fixture(params=DEVICES, autouse=True)
def device(request, monkeypatch):
    """A simulated GPU, "cuda" or "mps", on which the test runs."""
    apple = request.param == "mps"
    if apple:
        monkeypatch.setattr("core.devices.NO_FLOAT64", ("cuda",))  # how the simulated device is called
    with simulated_device(float64=not apple):
        yield request.param


def prior_settings() -> dict[str, Any]:
    """The constructor's arguments of a toy S."""
    return {name: x for name, x in toy_prior().config.items() if not name.startswith("_")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy model of two levels, which is built in little time even from simulated tensors."""
    folder = tmp_path_factory.mktemp("devices") / "model"
    levels = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 16),
    }
    save_portrait_model(toy_model(**levels), str(folder))
    return folder


def check_stage(run: TrainingRun) -> None:
    """Run a training step up to its loss, a validation step, its means over the epoch, and the pictures."""
    module, batch = build(run, torch.device(GPU))
    with autocast(GPU, run.dtype):
        assert_on_gpu(training_loss(module, batch))
        if isinstance(module, ViewConsistencyStage):
            assert_on_gpu(training_loss(module, split_views(batch, 1)))
        with torch.no_grad():
            check_validation(module, batch)
            for images in module.pictures(batch).values():
                assert images.shape[-1] == run.batch.image_size
                assert_on_gpu(images)


def check_validation(module: TrainedPart, batch: Batch) -> None:
    """A validation step and the means of its epoch."""
    module._trainer = Mock(world_size=1)
    module.validation_step(batch, 0)
    names = set(module._means._sums)
    assert names >= VALIDATED[module.stage]
    module._means.compute(module._sum_over_ranks)


def assert_on_gpu(values: Tensor) -> None:
    """Check that a result is float32 on the simulated device."""
    assert (values.device.type, values.dtype) == ("cuda", torch.float32)


def precision(device: str) -> torch.dtype | None:
    """Autocast's dtype: bf16-mixed, as in the full-size YAMLs, and without autocast on Apple's GPU."""
    return torch.bfloat16 if device == "cuda" else None


@STRICTER
@pytest.mark.parametrize(
    # stage 3 has the parts of all
    "name",
    [name if name == "stage 3" else pytest.param(name, marks=pytest.mark.slow) for name in STAGES],
)
def test_stages_at_toy_size(name: str, device: str, model: Path):
    stage, settings = STAGES[name]
    given = {"backbone": str(model), "mirror": True, "sample_steps": 1, **settings}
    check_stage(TrainingRun(name, stage, given, BatchSize(1, 1, 2, 16), precision(device), averaged=False))


@pytest.mark.parametrize("device", ["cuda", pytest.param("mps", marks=pytest.mark.slow)], indirect=True)
def test_noise_prior_stage_at_toy_size(device: str):
    settings = {"prior": prior_settings(), "perceptual": "vgg16", "mirror": True}
    size = BatchSize(2, 2, 2, 16)
    check_stage(TrainingRun("S", NoisePriorStage, settings, size, precision(device), averaged=False))


@FULL_SIZE
@pytest.mark.parametrize("files", RUNS, ids=lambda files: Path(files[0]).stem)
def test_stages_at_full_size(files: tuple[str, ...], device: str):
    run = training_run(config_flags(files))
    assert run.batch.image_size == 512
    changes = {"sample_steps": 1} if issubclass(run.stage, Stage) else {}
    if run.stage is ViewConsistencyStage:
        changes["middle"] = "unconditional"
    if device == "mps":  # frozen parts in bfloat16 are for autocast
        changes |= {"frozen_dtype": "float32"} if issubclass(run.stage, Stage) else {}
    check_stage(replace(run, settings=run.settings | changes, dtype=precision(device)))


# Sampling


RELEASED = {"eta": 0.5}
OTHER_SETTINGS = {"strength": 0.5, "steps": 2}, {"noise": "random", "guidance": 1.0, "window": 1}


def check_sampling(pipeline: DiffPortrait3DPipeline, **settings: Any) -> None:
    """Two views of a person."""
    side, views = pipeline.image_size, 2
    camera = torch.from_numpy(label_from_angles(0.2, 0.1)).expand(1, views, -1)
    images = pipeline.views(
        torch.zeros(1, 1, 3, side, side),
        torch.zeros(1, views, 3, side, side, dtype=torch.uint8),
        camera,
        seeds=[0],
        sampling=replace(Sampling(steps=1), **settings),
        levels=True,
    )
    assert images.shape == (1, views, 3, side, side)
    assert (images.device.type, images.dtype) == ("cpu", torch.uint8)


def opened(dtype: torch.dtype, prior: dict[str, Any], folder: Path | None = None) -> DiffPortrait3DPipeline:
    """A pipeline with all parts on the device."""
    with torch.device(GPU):
        return unloaded_pipeline(dtype, prior, None if folder is None else str(folder))


@STRICTER
def test_sampling_at_toy_size(model: Path):
    check_sampling(opened(torch.float16, prior_settings(), model), **RELEASED)


@pytest.mark.slow
@pytest.mark.parametrize("settings", OTHER_SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_settings_of_sampling_at_toy_size(dtype: torch.dtype, settings: dict[str, Any], model: Path):
    pipeline = opened(dtype, prior_settings(), model)
    pipeline.register_to_config(reference_timestep="current")
    check_sampling(pipeline, **settings)


@FULL_SIZE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_sampling_at_full_size(dtype: torch.dtype):
    pipeline = opened(dtype, training_run(config_flags(RUNS[-1])).settings["prior"])
    assert pipeline.image_size == 512
    check_sampling(pipeline, **RELEASED)


# Generators


def check_generator(architecture: Architecture, settings: Settings) -> None:
    """Two identities at two cameras, with and without super-resolution, in every precision."""
    with torch.device(GPU):
        generator = KINDS[settings.kind](architecture, settings).eval().requires_grad_(False)
    camera = torch.from_numpy(label_from_angles(0.2, 0.1)).to(GPU)
    cameras = camera.expand(2, -1)
    for dtype in (torch.float32, torch.bfloat16):
        generator.tune(dtype)
        latents = torch.zeros(2, architecture.latent, device=GPU)
        people = generator.identity(generator.styles(latents, cameras, 0.7, 14))
        for seed in (None, 0):
            seen = generator.views(people, cameras.unsqueeze(1), Rendering(seed=seed))
            assert seen.image.shape == (2, 1, 3, architecture.size, architecture.size)
            for values in (seen.image, seen.raw, seen.depth, seen.mask):
                assert_on_gpu(values)
    assert_on_gpu(generator.shifted(cameras, latents, cameras))


@pytest.fixture(autouse=True)
def simulated_autocast(monkeypatch):
    """Autocast of generators: PyTorch's own does nothing for a device that this machine does not have."""

    def convolving(generator: Generator, x: Tensor) -> Any:
        lower = generator.precision != torch.float32
        return autocast(str(x.device), generator.precision if lower else None)

    monkeypatch.setattr(Generator, "_convolving", convolving)


@STRICTER
@pytest.mark.parametrize("kind", KINDS)
def test_generators_at_toy_size(kind: Kind):
    check_generator(toy_architecture(kind), toy_settings(kind))


@FULL_SIZE
@pytest.mark.parametrize("kind", KINDS)
def test_generators_at_full_size(kind: Kind):
    architecture = Architecture.read(key_list(kind), kind)
    assert architecture.size == 512
    check_generator(architecture, Settings.of(kind))
