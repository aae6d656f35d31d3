import pytest
import torch
from torch.nn import functional as F

from core.errors import InputError
from core.model_folders import load_model, save_model
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.view_control import control_residuals, embed_condition, view_control
from tests.networks.toy import noise, prompt, sd15_unet, shake, toy_unet

CLOSE = {"rtol": 1e-4, "atol": 2e-6}


def test_untrained_part_adds_nothing():
    unet = toy_unet()
    latents, timesteps = noise(2, 4, 8, 8), torch.tensor([5, 900])
    plain = Denoiser(unet, prompt())(latents, timesteps)
    controlled = Denoiser(unet, prompt(), view_control(unet, 4))
    assert torch.equal(controlled(latents, timesteps, condition=noise(2, 3, 32, 32)), plain)


@pytest.mark.parametrize(("unet", "factor"), [(toy_unet(), 4), (sd15_unet(), 8)], ids=["toy", "sd15"])
def test_matches_diffusers_controlnet(unet, factor):
    control = shake(view_control(unet, factor)).eval()
    latents, timesteps, images = (
        noise(2, 4, 8, 8),
        torch.tensor([5, 900]),
        noise(2, 3, 8 * factor, 8 * factor),
    )
    context = prompt(5).expand(2, -1, -1)
    skips, middle = control(latents, timesteps, context, images, return_dict=False)
    hint = Denoiser(unet, prompt(5), control).embed_condition(images)
    ours = control_residuals(control, latents, timesteps, prompt(5), hint)
    for mine, theirs in zip([*ours.skips, ours.middle], [*skips, middle], strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)
    theirs = unet(
        latents,
        timesteps,
        context,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    ).sample
    denoiser = Denoiser(unet, prompt(5), control)
    torch.testing.assert_close(denoiser(latents, timesteps, condition=images), theirs, **CLOSE)
    torch.testing.assert_close(denoiser(latents, timesteps, hint=hint), theirs, **CLOSE)


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16, 32])
def test_hint_has_the_latents_size(factor):
    unet = toy_unet()
    denoiser = Denoiser(unet, prompt(), view_control(unet, factor))
    assert denoiser.embed_condition(noise(1, 3, 4 * factor, 4 * factor)).shape == (1, 16, 4, 4)


@torch.no_grad()
@pytest.mark.parametrize("factor", [4, 8])
def test_untrained_hint_varies_as_much_as_the_features_it_is_added_to(factor):
    torch.manual_seed(0)
    control = view_control(toy_unet(), factor)
    images = F.interpolate(noise(4, 3, 8, 8), size=16 * factor, mode="bicubic").clamp(-1, 1)
    hint, features = embed_condition(control, images), control.conv_in(noise(4, 4, 16, 16))
    deviation = [float((x - x.mean((2, 3), keepdim=True)).std()) for x in (hint, features)]
    assert 0.3 < deviation[0] / deviation[1] < 3


def test_only_f_cam_gets_gradients_and_checkpointing_keeps_them():
    gradients = []
    for checkpointing in (False, True):
        unet = toy_unet().requires_grad_(False)
        control = shake(view_control(unet, 4))
        denoiser = Denoiser(unet, prompt(5), control.requires_grad_(), gradient_checkpointing=checkpointing)
        out = denoiser(noise(2, 4, 8, 8), torch.tensor([5, 900]), condition=noise(2, 3, 32, 32))
        out.square().mean().backward()
        assert all(parameter.grad is None for parameter in unet.parameters())
        gradients.append({name: parameter.grad for name, parameter in control.named_parameters()})
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-9)


def test_folder_round_trip(tmp_path):
    control = shake(view_control(toy_unet(), 4))
    save_model(control, tmp_path)
    loaded = load_model(type(control), tmp_path)
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in control.state_dict().items())
    assert loaded.config.conditioning_embedding_out_channels == [16, 32, 96]


def test_shape_mismatches_are_input_errors():
    unet = toy_unet()
    for factor in (3, 64):
        with pytest.raises(InputError, match=f"downsamples by {factor}"):
            view_control(unet, factor)
    denoiser = Denoiser(unet, prompt(), view_control(unet, 4))
    with pytest.raises(InputError, match="of the targets' size"):
        denoiser(noise(1, 4, 8, 8), torch.tensor([5]), condition=noise(1, 3, 64, 64))
    with pytest.raises(InputError, match=r"condition of shape \(1, 1, 32, 32\)"):
        denoiser(noise(1, 4, 8, 8), torch.tensor([5]), condition=noise(1, 1, 32, 32))
    with pytest.raises(InputError, match="condition images were given"):
        Denoiser(unet, prompt())(noise(1, 4, 8, 8), torch.tensor([5]), condition=noise(1, 3, 32, 32))
