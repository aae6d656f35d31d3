"""Channels-last memory and compilation of the pipeline's networks, options of `synthesize`."""

import shutil

import pytest
import torch

from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.synthesis import NetworkOptions, open_pipeline
from lightning_modules.synthesize import make_parser
from tests.networks.toy import noise, toy_model

EXACT = 1e-4  # a few steps of the predictions of tests/networks/test_speed.py


def views(pipeline):
    sampling = Sampling(steps=2, noise="random", window=2, overlap=1)
    return pipeline.views(
        noise(1, 1, 3, 16, 16), noise(1, 3, 3, 16, 16, seed=1), seeds=[0], sampling=sampling
    )


def test_channels_last_gives_equal_views(tmp_path):
    save_portrait_model(toy_model(), str(tmp_path / "model"))
    model = str(tmp_path / "model")
    plain = open_pipeline(NetworkOptions(model), ["cpu"])
    other = open_pipeline(NetworkOptions(model, channels_last=True), ["cpu", "cpu"])
    weights = [network.unet.down_blocks[0].resnets[0].conv1.weight for network in (other, *other.replicas)]
    weights += [part.conv_in.weight for part in (other.appearance_reference, other.view_control)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    torch.testing.assert_close(views(other), views(plain), rtol=0, atol=EXACT)


@pytest.fixture
def compiled(monkeypatch):
    """The modules that `compile` is called on; nothing is compiled."""
    modules = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: modules.append(module))
    return modules


def test_denoiser_reference_and_replicas_are_compiled_once(compiled):
    pipeline = DiffPortrait3DPipeline.of(toy_model()).tune(compile=True).replicate(["cpu"])
    views(pipeline)
    views(pipeline)
    expected = [pipeline.denoiser, pipeline.appearance_reference, *pipeline.replicas]
    assert [id(module) for module in compiled] == [id(module) for module in expected]


def test_denoiser_is_rebuilt_only_when_a_part_is_replaced(compiled):
    pipeline = DiffPortrait3DPipeline.of(toy_model()).tune(compile=True)
    kept = pipeline.denoiser
    pipeline.to(torch.bfloat16)
    assert pipeline.denoiser is kept
    assert kept.empty_prompt.dtype == torch.bfloat16
    pipeline.cross_view = None
    assert pipeline.denoiser is not kept
    assert pipeline.denoiser.cross_view is None
    assert sum(type(module) is type(kept) for module in compiled) == 2


def test_synthesize_accepts_channels_last_and_compile():
    asked = make_parser().parse_args(["--model=m", "--out=o", "--channels_last=true", "--compile=true"])
    assert asked.channels_last
    assert asked.compile


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile builds C++ on a CPU")
def test_compiled_gives_equal_views():
    model = toy_model()
    plain = views(DiffPortrait3DPipeline.of(model))
    torch.testing.assert_close(
        views(DiffPortrait3DPipeline.of(model).tune(compile=True)), plain, rtol=0, atol=EXACT
    )
