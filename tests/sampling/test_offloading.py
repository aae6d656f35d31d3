"""Offloading to the CPU, whole networks or layer by layer, as diffusers' pipelines do."""

import pytest
import torch
from torch import nn

from core.errors import InputError
from lightning_modules.sampling.offloading import OffloadedLayer, offload_layers
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from tests.networks.toy import noise, toy_model
from tests.sampling.test_diffusers_habits import INPUTS
from tests.sampling.test_pipeline import equal


@pytest.fixture
def pipeline():
    return DiffPortrait3DPipeline.of(toy_model(prior=True))


@pytest.fixture
def moves(monkeypatch):
    """The calls of `Module.to`, as (class, device)."""
    found, move = [], nn.Module.to

    def watched(module, *args, **options):
        found.append((type(module).__name__, str(args[0]) if args else None))
        return move(module, *args, **options)

    monkeypatch.setattr(nn.Module, "to", watched)
    return found


def test_model_offload_moves_networks_in_order(pipeline, moves):
    plain = pipeline(**INPUTS, steps=2)
    pipeline.enable_model_cpu_offload(device="cpu:0")  # in place of a GPU
    moves.clear()
    assert equal(plain, pipeline(**INPUTS, steps=2))
    loaded = [name for name, device in moves if device == "cpu:0"]
    denoising = ["UNet2DConditionModel", "AppearanceReference", "ControlNetModel", "CrossView"]
    assert loaded == ["AutoencoderKL", "NoisePrior", "AutoencoderKL", *denoising, "AutoencoderKL"]
    assert [name for name, device in moves if device == "cpu"] == [
        "AutoencoderKL", "AutoencoderKL", "NoisePrior", *denoising, "AutoencoderKL"]  # fmt: skip


def test_sequential_offload_loads_every_layer_and_restores_it(pipeline, monkeypatch):
    plain = pipeline(**INPUTS, steps=2)
    loads, load = set(), OffloadedLayer.load

    def watched(layer, module, *inputs):
        loads.add(module)
        return load(layer, module, *inputs)

    monkeypatch.setattr(OffloadedLayer, "load", watched)
    kept = {id(x) for part in pipeline._networks() for x in part.parameters()}
    pipeline.enable_sequential_cpu_offload(device="cpu:0")  # in place of a GPU
    assert equal(plain, pipeline(**INPUTS, steps=2))
    assert {id(x) for part in pipeline._networks() for x in part.parameters()} == kept
    weighted = {m for part in pipeline._networks() for m in part.modules() if list(m.parameters(False))}
    assert len(weighted & loads) > 0.9 * len(weighted)  # a few layers never run
    with pytest.raises(InputError, match="load the pipeline again"):
        pipeline.enable_model_cpu_offload(device="cpu:0")


def test_offloaded_layer_runs_on_the_device():
    layer = nn.BatchNorm1d(3).eval()
    weights = dict(layer.state_dict(keep_vars=True))
    offload_layers(layer, torch.device("meta"))
    assert layer(noise(2, 3)).device.type == "meta"
    assert layer(input=noise(2, 3)).device.type == "meta"
    assert all(layer.state_dict(keep_vars=True)[name] is x for name, x in weights.items())
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        layer(noise(2, 5, 3, 3))
    assert layer.weight is weights["weight"]


def test_offloading_without_a_gpu_changes_nothing(pipeline, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    plain = pipeline(**INPUTS, steps=1)
    pipeline.enable_model_cpu_offload()
    pipeline.enable_sequential_cpu_offload()
    assert equal(plain, pipeline(**INPUTS, steps=1))
