from dataclasses import replace

import pytest
import torch

from benchmarks.sampling import Inputs, benchmark, ours, released
from core.files import whole_folder
from lightning_modules.networks.portrait import write_portrait_model
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from tests.networks.toy import toy_model


@pytest.mark.parametrize("prior", [True, False])
def test_released_sampler_and_pipeline_agree(prior):
    """Otherwise their times could not be compared. The released sampler's F_ref gets the current timestep."""
    pipeline = DiffPortrait3DPipeline.of(replace(toy_model(prior=prior), reference_timestep="current"))
    inputs = Inputs.of(pipeline, 3)
    assert (inputs.cameras is not None) == prior
    made = ours(pipeline, inputs, 3)
    assert made.shape == (3, 3, 16, 16)
    torch.testing.assert_close(made, released(pipeline, inputs, 3), rtol=1e-3, atol=1e-3)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The folder of a toy model, and a single path of two views."""
    with whole_folder(tmp_path / "model") as folder:
        write_portrait_model(toy_model(prior=True), folder)
    monkeypatch.setattr("benchmarks.sampling.PATHS", (2,))
    return str(tmp_path / "model")


def test_peak_memory_of_a_path_is_that_of_its_process(model, capsys):
    benchmark(model, steps=1, only=2)
    assert 0.1 < float(capsys.readouterr().out) < 64  # GiB; this process runs other tests too


@pytest.mark.slow
def test_command_prints_times_and_peak_memory(model, capsys):
    benchmark(model, steps=2, rounds=1)
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert list(printed) == ["released sampler", "pipeline", "released sampler / pipeline", "2 views"]
    assert 0.1 < float(printed["2 views"].split()[0]) < 8  # GiB, measured in a process of its own
