import shutil
from pathlib import Path

import pytest
import torch

from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import DeepFeatures, Denoiser
from lightning_modules.networks.portrait import load_portrait_model
from lightning_modules.networks.pretrained import save_backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.speed import tune
from lightning_modules.networks.view_control import view_control
from lightning_modules.training import read_config
from tests.networks.toy import noise, prompt, shake, toy_backbone, toy_unet

# Float32 sums in another order: 1e-6 measured.
EXACT = 1e-5
# 8 bits of mantissa: 0.4% for each rounding, in some fifty layers with residuals; 1.1% measured.
BFLOAT16 = 3e-2


@torch.no_grad()
def predict(dtype=torch.float32, **settings):
    unet = toy_unet()
    reference = shake(AppearanceReference.from_unet(unet)).eval()
    control, cross_view = shake(view_control(unet, 4)), shake(CrossView.from_unet(unet, heads=4))
    denoiser = Denoiser(unet, prompt(5), control, cross_view).eval()
    names = set(denoiser.state_dict())
    tune(denoiser, dtype=dtype, **settings)
    tune(reference, dtype=dtype, **settings)
    assert set(denoiser.state_dict()) == names
    timesteps = torch.full((4,), 300)
    bank = reference(noise(2, 1, 4, 8, 8).to(dtype), timesteps[:2], denoiser.empty_prompt)
    condition = noise(4, 3, 32, 32).to(dtype)
    return denoiser(noise(4, 4, 8, 8).to(dtype), timesteps, bank, condition, views=2).float()


def error(**settings):
    eager = predict()
    return ((predict(**settings) - eager).norm() / eager.norm()).item()


def test_channels_last_matches_eager():
    assert error(channels_last=True) < EXACT


def test_bfloat16_is_close_to_eager():
    assert error(dtype=torch.bfloat16) < BFLOAT16
    assert error(dtype=torch.bfloat16, channels_last=True) < BFLOAT16


def test_bfloat16_autocast_is_close_to_eager():
    eager = predict()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = predict()
    assert ((mixed - eager).norm() / eager.norm()).item() < BFLOAT16


def whole_graph(denoiser, **options):
    """Trace a prediction as one graph, which raises where torch.compile would break it; its outputs."""
    traced = torch.compile(denoiser, backend="eager", fullgraph=True, dynamic=False)
    size = denoiser.unet.config.sample_size or 8
    latents, timesteps = noise(4, 4, size, size), torch.full((4,), 300)
    with torch.no_grad():
        found = traced(latents, timesteps, views=4, **options)
        torch.testing.assert_close(found, denoiser(latents, timesteps, views=4, **options))
    return found


def conditioned(denoiser, reference, side, downsampling):
    """A bank and a hint for four views of latents of this side."""
    with torch.no_grad():
        bank = reference(noise(1, 1, 4, side, side), torch.zeros(1), denoiser.empty_prompt)
        hint = denoiser.embed_condition(noise(4, 3, downsampling * side, downsampling * side))
        return {"bank": denoiser.project(bank), "hint": hint}


@pytest.mark.slow
def test_denoiser_compiles_to_one_graph():
    """With all that a pass can have, on one level of layers."""
    unet = toy_unet(down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
                    block_out_channels=(16,))  # fmt: skip
    denoiser = Denoiser(unet, prompt(5), view_control(unet, 4), CrossView.from_unet(unet, heads=4)).eval()
    given = conditioned(denoiser, AppearanceReference.from_unet(unet).eval(), 8, 4)
    kept = DeepFeatures()
    assert len(whole_graph(denoiser, **given, prompt=denoiser.empty_prompt, both=True, deep=kept)) == 8
    assert kept.hidden is not None


@pytest.mark.slow
def test_shipped_denoiser_compiles_to_one_graph():
    """In both passes of a guided step, in one batch of both, and with features of an earlier step."""
    model = load_portrait_model("checkpoints/mini")
    denoiser, side = model.denoiser().eval(), model.backbone.unet.config.sample_size
    given = conditioned(denoiser, model.reference, side, model.backbone.downsampling)
    whole_graph(denoiser)
    whole_graph(denoiser, **given)
    assert len(whole_graph(denoiser, **given, both=True)) == 8
    kept = DeepFeatures()
    filled = whole_graph(denoiser, **given, deep=kept)
    torch.testing.assert_close(whole_graph(denoiser, **given, deep=kept), filled)


def gradients(dtype=torch.float32, **settings):
    """Gradients of F_ref in stage 1. One level of layers, since compiling more takes minutes."""
    unet = toy_unet(
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(16,),
    ).requires_grad_(False)
    reference, denoiser = AppearanceReference.from_unet(unet).requires_grad_(), Denoiser(unet, prompt(5))
    for network in (denoiser, reference):
        tune(network, dtype=dtype, **settings)
    timesteps = torch.full((4,), 300)
    bank = reference(noise(2, 1, 4, 8, 8).to(dtype), timesteps[:2], denoiser.empty_prompt)
    denoiser(noise(4, 4, 8, 8).to(dtype), timesteps, bank, views=2).float().square().mean().backward()
    return torch.cat([parameter.grad.flatten().float() for parameter in reference.parameters()])


def gradient_error(**settings):
    eager = gradients()
    return ((gradients(**settings) - eager).norm() / eager.norm()).item()


def test_gradients_match_eager():
    assert gradient_error(channels_last=True) < EXACT
    assert gradient_error(dtype=torch.bfloat16) < BFLOAT16


def test_stage_applies_channels_last(tmp_path):
    save_backbone(toy_backbone(), str(tmp_path / "backbone"))
    batch, draws = {}, (noise(2, 1, 4, 8, 8), noise(2, 3, 4, 8, 8), noise(2, 3, 4, 8, 8, seed=1))
    losses = []
    for channels_last in (False, True):
        stage = AppearanceStage(str(tmp_path / "backbone"), channels_last=channels_last)
        stage.setup("fit")
        stage.on_fit_start()
        for network in (stage.denoiser.unet, stage.reference):
            weight = network.down_blocks[0].resnets[0].conv1.weight
            assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        losses.append(stage.denoise(batch, *draws, torch.full((2, 3), 300)))
    torch.testing.assert_close(losses[1], losses[0], rtol=EXACT, atol=0)


def test_fit_accepts_channels_last_and_compile(tmp_path, monkeypatch):
    config = Path(__file__).parents[2] / "configs/stage1.yaml"
    save_backbone(toy_backbone(), str(tmp_path / "backbone"))
    monkeypatch.chdir(tmp_path)
    settings = {"backbone": tmp_path / "backbone", "channels_last": "true", "compile": "true"}
    flags = [f"--model.init_args.{name}={value}" for name, value in settings.items()]
    stage = read_config([f"--config={config}", "--trainer.accelerator=cpu", *flags]).model
    assert stage.hparams.channels_last
    assert stage.hparams.compile


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile builds C++ on a CPU")
def test_compiled_matches_eager():
    assert error(compile=True) < EXACT
    assert gradient_error(compile=True) < EXACT
