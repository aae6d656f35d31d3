import shutil

import pytest
import torch

from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.speed import tune
from lightning_modules.networks.view_control import view_control
from tests.networks.toy import noise, prompt, shake, toy_unet

# Float32 sums in another order; measured 1e-6.
EXACT = 1e-5
# Eight bits of mantissa, 0.4% for each rounding, through some fifty layers with residuals; measured 1.1%.
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


def test_channels_last_agrees_with_eager():
    assert error(channels_last=True) < EXACT


def test_bfloat16_agrees_with_eager():
    assert error(dtype=torch.bfloat16) < BFLOAT16
    assert error(dtype=torch.bfloat16, channels_last=True) < BFLOAT16


def test_bfloat16_autocast_agrees_with_eager():
    eager = predict()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = predict()
    assert ((mixed - eager).norm() / eager.norm()).item() < BFLOAT16


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile builds C++ on a CPU")
def test_compiled_agrees_with_eager():
    assert error(compile=True) < EXACT
