"""The benchmark of a GPU, at toy size on the CPU."""

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

WAYS = ("released", "ours", "ours, fixed timestep")
PARTS = {"appearance": "none", "control": "none"}


@pytest.fixture
def job(tmp_path):
    """Everything at toy size."""
    save_portrait_model(toy_model(), str(tmp_path / "model"))
    backbone = str(tmp_path / "model")
    prior = {name: x for name, x in toy_prior().config.items() if not name.startswith("_")}
    settings = {
        AppearanceStage: {"backbone": backbone},
        ViewControlStage: {"backbone": backbone, "appearance": "none"},
        ViewConsistencyStage: {"backbone": backbone, **PARTS},
        NoisePriorStage: {"prior": prior, "perceptual": "efficientnet-lite0"},
    }
    stages = [
        TrainingRun(
            stage.stage, stage, own | {"learning": Learning()}, BatchSize(1, 1, 2, 16), None, averaged=False
        )
        for stage, own in settings.items()
    ]
    size = Size((32, 32, 32, 32), 8)
    return Job(CPU, torch.float32, size, prior, stages, views=2, steps=2, rounds=1, backbone=backbone)


def test_every_line_is_measured(job, capsys, monkeypatch):
    monkeypatch.setattr(card, "matrix_rate", lambda *_: 1e12)
    report(job)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    names = [name for name, *_ in cells]
    assert names[:4] == [*(f"guided step of 2 views, {way}" for way in WAYS), "2 views in 2 steps"]
    stages = ("appearance", "view_control", "view_consistency", "noise_prior")
    assert [name.partition(":")[0] for name in names[4:]] == list(stages)
    for _, seconds, work, share, peak in cells:
        assert float(seconds) > 0
        assert float(work) > 0
        assert float(share.rstrip("%")) <= 100
        assert float(peak) > 0
    released, own, fixed = (float(row[2]) for row in cells[:3])
    assert released > own > fixed


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
    assert [run.stage for run in job.stages] == [
        AppearanceStage,
        ViewControlStage,
        ViewConsistencyStage,
        NoisePriorStage,
    ]
    assert {run.batch.image_size for run in job.stages} == {512}


def test_machine_without_a_gpu_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main([])
    assert "make benchmark-cpu" in capsys.readouterr().err
