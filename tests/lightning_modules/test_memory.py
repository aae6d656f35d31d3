"""Memory computed on simulated devices against memory allocated by real steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import InputError
from core.tensor_memory import TensorMemory, tensor_bytes
from lightning_modules.appearance import AppearanceStage
from lightning_modules.memory import main, requested_rows, training_run
from lightning_modules.noise_prior import NoisePriorStage
from lightning_modules.step_memory import (
    TrainingRun,
    build,
    step_memory,
    train_steps,
    training_memory,
)
from lightning_modules.unloaded import BatchSize, training_loss
from lightning_modules.view_consistency import ViewConsistencyStage
from lightning_modules.view_control import ViewControlStage
from tests.networks.toy import toy_prior

CPU = torch.device("cpu")
PARTS = {"appearance": "none", "control": "none"}
STAGES = {
    AppearanceStage: {},
    ViewControlStage: {"appearance": "none"},
    ViewConsistencyStage: PARTS,
}


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def run(backbone: Path):
    """A function that describes a stage's training on the toy backbone in float32."""

    def make(stage: type, **settings: object) -> TrainingRun:
        given = {"backbone": str(backbone), **STAGES[stage], **settings}
        return TrainingRun("toy", stage, given, BatchSize(2, 1, 3, 64), None, averaged=True)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_memory_of_every_stage_matches_a_real_step(run, stage: type, checkpointing: bool):
    check_step(run(stage, gradient_checkpointing=checkpointing))


def test_memory_matches_a_real_step(run):
    check_step(run(AppearanceStage, gradient_checkpointing=True))


def check_step(described: TrainingRun) -> None:
    """Compare with a real step: weights, gradients and moments exactly, activations within 10%."""
    module, batch = build(described, CPU)
    computed = step_memory(module, batch, described, "cpu")
    trained = [p for p in module.parameters() if p.requires_grad]
    train_steps(module, batch, described, 1)
    optimizer = module.learning.configure(trained, 1)["optimizer"]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    gradients = tensor_bytes([p.grad for p in trained])
    with TensorMemory() as memory:
        training_loss(module, batch).backward()
    optimizer.step()
    moments = [x for state in optimizer.state.values() for x in state.values() if x.ndim]
    assert computed.weights == tensor_bytes(
        [*module.parameters(), *module.buffers(), *(x for x in batch.values() if isinstance(x, torch.Tensor))]
    )
    assert computed.gradients == computed.average == gradients
    assert computed.optimizer == tensor_bytes(moments)
    assert memory.peak == pytest.approx(computed.activations, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_memory_on_a_simulated_gpu_matches_the_cpu(run, stage: type):
    described = run(stage)
    computed, real = (
        training_memory(described, "cuda:0"),
        step_memory(*build(described, CPU), described, "cpu"),
    )
    assert (computed.weights, computed.gradients) == (
        real.weights - 16,
        real.gradients,
    )  # `position` stays on the CPU
    assert computed.activations == pytest.approx(real.activations, rel=0.3)  # other attention kernels


@pytest.mark.slow
def test_bfloat16_frozen_parts_take_less_memory(run):
    full = training_memory(replace(run(AppearanceStage), dtype=torch.bfloat16), "cuda:0")
    frozen = run(AppearanceStage, frozen_dtype="bfloat16")
    half = training_memory(replace(frozen, dtype=torch.bfloat16), "cuda:0")
    assert half.weights < 0.8 * full.weights
    assert half.gradients == full.gradients


@pytest.mark.slow
def test_noise_prior_memory_on_a_simulated_gpu():
    prior = {name: value for name, value in toy_prior().config.items() if not name.startswith("_")}
    settings = {"prior": prior, "perceptual": "vgg16"}  # its weights are not needed
    described = TrainingRun("S", NoisePriorStage, settings, BatchSize(2, 1, 3, 16), None, averaged=False)
    real = step_memory(*build(described, CPU), described, "cpu")
    computed = training_memory(described, "cuda:0")
    assert computed.gradients == real.gradients
    assert computed.average == 0
    assert computed.activations == pytest.approx(real.activations, rel=0.1)


def flags(*files: str) -> list[str]:
    return [f"--config={CONFIGS / file}" for file in files]


def test_training_run_is_read_from_fit_arguments():
    small = "--model.init_args.learning.optimizer=adamw8bit"
    described = training_run([*flags("stage1.yaml", "scale/sd15.yaml", "scale/sd15_24gb.yaml"), small])
    assert described.stage is AppearanceStage
    assert described.batch == BatchSize(1, 1, 2, 512)
    assert described.dtype == torch.bfloat16
    assert not described.averaged  # not on the GPU
    assert not described.buckets
    assert described.settings["learning"].optimizer == "adamw8bit"  # even without bitsandbytes
    more = training_run([*flags("stage1.yaml"), "--trainer.strategy=ddp", "--data.init_args.targets=3"])
    assert more.buckets
    assert more.averaged
    assert more.batch.targets == 3
    assert more.dtype is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([*flags("stage1.yaml"), "--trainer.precision=64-true"], "precision 64-true"),
        (flags("backbone_vae.yaml"), "not one of the stages"),
        (["--sampling", "--window=0"], "window 0"),
        (["--sampling", "--widow=8"], "widow"),
        (["--sampling", "--window=33"], "33 views at once, but V has positional encodings for 32"),
        ([*flags("stage1.yaml"), "--data.init_args.targets=0"], "targets 0: give 1 or more"),
        ([*flags("stage1.yaml"), "--data.init_args.batch_size=0"], "batch_size 0: give 1 or more"),
        (["--targets=2"], "no such option"),
    ],
)
def test_unsupported_settings_are_input_errors(arguments: list[str], reason: str):
    def compute_all() -> None:
        for _, compute in requested_rows(arguments):
            compute()

    with pytest.raises(InputError, match=reason):
        compute_all()


@pytest.mark.slow
def test_command_prints_a_table(capsys: pytest.CaptureFixture[str]):
    main([*flags("stage1.yaml"), "--data.init_args.batch_size=1"])
    head, rule, row, *_ = capsys.readouterr().out.splitlines()
    assert row.count("|") == head.count("|") == rule.count("|")
    assert "stage1: 1 x 8 images, float32, adamw" in row
