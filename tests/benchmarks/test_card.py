"""The benchmark of a GPU, at toy size on the CPU."""

from dataclasses import replace

import pytest
import torch

from benchmarks import card
from benchmarks.card import Job, full_size, main, measure, report
from benchmarks.denoising import Size, operations
from core.devices import CPU
from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.noise_prior import NoisePriorStage
from lightning_modules.optimization import Learning
from lightning_modules.step_memory import TrainingRun
from lightning_modules.unloaded import BatchSize
from lightning_modules.view_consistency import ViewConsistencyStage
from lightning_modules.view_control import ViewControlStage
from tests.networks.toy import toy_model, toy_prior

PARTS = {"appearance": "none", "control": "none"}
STAGES = (AppearanceStage, ViewControlStage, ViewConsistencyStage, NoisePriorStage)


@pytest.fixture
def job(tmp_path):
    """Everything at toy size, without training steps."""
    save_portrait_model(toy_model(), str(tmp_path / "model"))
    prior = {name: x for name, x in toy_prior().config.items() if not name.startswith("_")}
    size = Size((32, 32, 32, 32), 16)
    where = str(tmp_path / "model")
    return Job(CPU, torch.float32, size, prior, [], views=2, steps=1, rounds=1, backbone=where)


@pytest.fixture
def stages(job):
    """A training step of each stage at toy size."""
    parts = {"backbone": job.backbone, **PARTS}
    own = ({"backbone"}, {"backbone", "appearance"}, parts.keys())
    settings = [{name: parts[name] for name in names} for names in own]
    settings.append({"prior": job.prior, "perceptual": "efficientnet-lite0"})
    size = BatchSize(1, 1, 2, 16)
    return [
        TrainingRun(stage.stage, stage, given | {"learning": Learning()}, size, None, averaged=False)
        for stage, given in zip(STAGES, settings, strict=True)
    ]


@pytest.fixture
def printed(capsys, monkeypatch):
    """A function that measures a job, and returns the cells of the printed table by name."""
    monkeypatch.setattr(card, "matrix_rate", lambda *_: 1e12)

    def rows(job: Job) -> dict[str, list[float]]:
        report(job)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return {name: [float(value.rstrip("%")) for value in values] for name, *values in cells}

    return rows


def check(values: list[float]) -> None:
    """Whether a line has plausible numbers."""
    seconds, work, share, peak = values
    assert min(seconds, work, peak) > 0
    assert 0 <= share <= 100


@pytest.mark.slow
def test_sampling_is_measured(job, printed):
    rows = printed(job)
    ways = [f"guided step of 2 views, {way}" for way in ("released", "ours", "ours, fixed timestep")]
    assert list(rows) == [*ways, "2 views in 1 steps"]
    for values in rows.values():
        check(values)
    released, own, fixed = (rows[way][1] for way in ways)
    assert released > own > fixed


@pytest.mark.parametrize(
    # stage 3 has the parts of all
    "stage",
    [*(pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES[:2]), *STAGES[2:]],
)
def test_training_steps_are_measured(job, stages, stage, printed, monkeypatch):
    monkeypatch.setattr(card, "guided_steps", lambda _: {})
    monkeypatch.setattr(card, "whole_pipeline", lambda _: {})
    ((name, values),) = printed(replace(job, stages=[run for run in stages if run.stage is stage])).items()
    assert name == f"{stage.stage}: 1 x 2 images, float32, adamw"
    check(values)


def test_operations_are_those_of_one_run():
    left = torch.ones(8, 16)
    runs = []

    def run() -> torch.Tensor:
        runs.append(1)
        return left @ left.mT

    line = measure(run, CPU, rounds=3)
    assert line.operations == operations(run) == 2 * 8 * 16 * 8
    assert len(runs) == 1 + 3 + 1


def test_full_size_is_the_papers():
    job = full_size(8, 50, 3)
    assert (job.device, job.dtype, job.size.latent) == ("cuda", torch.float16, 64)
    assert tuple(run.stage for run in job.stages) == STAGES
    assert {run.batch.image_size for run in job.stages} == {512}


def test_machine_without_a_gpu_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main([])
    assert "make benchmark-cpu" in capsys.readouterr().err
