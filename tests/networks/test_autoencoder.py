"""Colours and texture of reconstructions, and whitened latents."""

import copy
import math

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.nn import functional as F

from lightning_modules.networks.autoencoder import colour_loss, texture_loss, turn_hue, whiten
from tests.networks.toy import toy_vae


def images(count=8, side=16):
    """Images (N, 3, S, S) in [-1, 1]."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def moments(vae, pixels):
    with torch.no_grad():
        return vae.encode(pixels).latent_dist.parameters


def spread_of(vae, pixels):
    """The covariance (C, C) of posterior means."""
    return torch.cov(moments(vae, pixels).chunk(2, 1)[0].transpose(0, 1).flatten(1))


def test_brightness_has_no_colour_loss():
    grey = images()
    assert colour_loss(grey + 0.3, grey, 4).item() == pytest.approx(0, abs=1e-6)


def test_a_change_of_one_colour_is_measured():
    grey = images()
    assert colour_loss(grey + torch.tensor([0.3, 0, 0]).view(3, 1, 1), grey, 4).item() == pytest.approx(0.15)
    assert colour_loss(grey + torch.tensor([0, 0.3, 0]).view(3, 1, 1), grey, 4).item() == pytest.approx(0.3)


def test_colours_within_a_cell_are_averaged():
    noise = torch.zeros(1, 3, 4, 4)
    noise[0, 0, ::2] = 1
    noise[0, 0, 1::2] = -1
    assert colour_loss(noise, torch.zeros_like(noise), 2).item() == 0
    assert colour_loss(noise, torch.zeros_like(noise), 1).item() == pytest.approx(0.5)


def test_texture_depends_on_how_much_pixels_vary_and_not_on_how():
    one, other = images().mean(1, keepdim=True).expand(-1, 3, -1, -1), images(16)[8:]
    assert texture_loss(one + 0.3, one, 4).item() == pytest.approx(0, abs=1e-6)
    assert texture_loss(one.flip(0), one, 16) < 0.2 * texture_loss(one / 2, one, 16)  # averages of noise
    blurred = F.avg_pool2d(other, 3, 1, 1)
    assert texture_loss(blurred, other, 4) > 2 * texture_loss(0.8 * other, other, 4)


def test_texture_is_the_length_of_the_gradient():
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) / 8
    both = 2 * ramp + ramp.transpose(2, 3)
    flat = torch.zeros_like(ramp)
    assert texture_loss(ramp, flat, 4).item() == pytest.approx(1 / 8, abs=1e-3)
    assert texture_loss(both, flat, 1).item() == pytest.approx(math.sqrt(5) / 8, abs=1e-3)


def test_flat_images_have_a_finite_gradient_of_texture():
    flat = torch.zeros(1, 3, 8, 8, requires_grad=True)
    texture_loss(flat, images(1, 8), 4).backward()
    assert flat.grad.isfinite().all()


def test_a_turn_of_hue_keeps_brightness_and_greys():
    pixels = images() / 2
    turned = turn_hue(pixels, torch.linspace(-3, 3, len(pixels)))
    assert not torch.allclose(turned, pixels, atol=0.1)
    assert torch.allclose(turned.mean(1), pixels.mean(1), atol=1e-6)
    grey = pixels[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(turn_hue(grey, torch.ones(len(grey))), grey, atol=1e-6)


def test_a_third_of_a_turn_makes_red_green():
    red = torch.tensor([0.5, -0.5, -0.5]).view(1, 3, 1, 1)
    assert torch.allclose(turn_hue(red, torch.tensor([2 * math.pi / 3])), red.roll(1, 1), atol=1e-6)
    assert torch.equal(turn_hue(red, torch.zeros(1)), red)


def test_whitened_latents_are_uncorrelated_with_unit_variance():
    vae, pixels = toy_vae(), images()
    before = spread_of(vae, pixels)
    assert not torch.allclose(before, torch.eye(len(before)), atol=0.1)
    whiten(vae, moments(vae, pixels))
    assert torch.allclose(spread_of(vae, pixels), torch.eye(len(before)), atol=1e-3)
    centre = moments(vae, pixels).chunk(2, 1)[0].mean((0, 2, 3))
    assert torch.allclose(centre, torch.zeros_like(centre), atol=1e-3)


def test_whitening_keeps_reconstructions():
    vae, pixels = toy_vae(), images()
    changed = copy.deepcopy(vae)
    whiten(changed, moments(vae, pixels))
    with torch.no_grad():
        first, second = (v.decode(v.encode(pixels).latent_dist.mean).sample for v in (vae, changed))
    assert torch.allclose(first, second, atol=1e-4)


def test_whitening_scales_the_posteriors_variances_as_its_means():
    vae, pixels = toy_vae(), images()
    changed = copy.deepcopy(vae)
    whiten(changed, moments(vae, pixels))
    old, new = (DiagonalGaussianDistribution(moments(v, pixels)) for v in (vae, changed))
    transform = torch.linalg.lstsq(
        (old.mean - old.mean.mean((0, 2, 3), keepdim=True)).transpose(0, 1).flatten(1).T,
        new.mean.transpose(0, 1).flatten(1).T,
    ).solution.T
    expected = transform.square() @ old.var.mean((0, 2, 3))
    assert torch.allclose(new.var.mean((0, 2, 3)), expected, rtol=0.2)


def test_a_direction_of_hardly_any_variance_is_not_amplified_to_unit_variance():
    vae, pixels = toy_vae(), images()
    with torch.no_grad():
        vae.quant_conv.weight[1] = vae.quant_conv.weight[0] + 1e-4 * vae.quant_conv.weight[1]
        vae.quant_conv.bias[1] = vae.quant_conv.bias[0]
    changed = copy.deepcopy(vae)
    whiten(changed, moments(vae, pixels))
    deviations = torch.linalg.eigvalsh(spread_of(changed, pixels)).clamp_min(0).sqrt()
    assert deviations[0] < 0.1
    assert torch.allclose(deviations[1:], torch.ones(3), atol=1e-3)
    with torch.no_grad():
        first, second = (v.decode(v.encode(pixels).latent_dist.mean).sample for v in (vae, changed))
    assert torch.allclose(first, second, atol=1e-4)
