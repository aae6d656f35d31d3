"""The autoencoder of the small backbone: colours and texture of its reconstructions, and latents made for
diffusion.

Shape letters: B images, S image side, N latents, C their channels, H W their size.
"""

import math
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.model_folders import load_vae
from portraits.pixels import brightness_gradient

# Directions in which latents vary by less than this, as a share of the largest, are amplified no further:
# a decoder that ignores a direction would otherwise read its numerical noise.
FLOOR = 0.01


def colour_loss(images: Tensor, targets: Tensor, cell: int) -> Tensor:
    """Mean absolute difference of the colours R - G and B - G of images (B, 3, S, S), averaged over cells of
    `cell` x `cell` pixels first."""
    difference = F.avg_pool2d(images - targets, cell)
    return (difference[:, [0, 2]] - difference[:, 1:2]).abs().mean()


def texture_loss(images: Tensor, targets: Tensor, cell: int) -> Tensor:
    """Mean absolute difference of the brightness gradient's length in images (B, 3, S, S), averaged over
    cells of `cell` x `cell` pixels first: how much neighbouring pixels differ, and not which."""

    def lengths(x: Tensor) -> Tensor:
        down, across = brightness_gradient(x)
        squared = down.square() + across.square() + 1e-8  # a root has no finite slope at zero
        return F.avg_pool2d(squared.sqrt(), cell)

    return (lengths(images) - lengths(targets)).abs().mean()


def turn_hue(images: Tensor, angles: Tensor) -> Tensor:
    """Turn the colours of images (B, 3, S, S) in [-1, 1] around the grey axis by angles (B,) in radians."""
    grey = torch.full((3,), 1 / math.sqrt(3), device=images.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=images.device) / math.sqrt(3)
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    same = torch.eye(3, device=images.device)
    turn = cos * same + sin * cross + (1 - cos) * torch.outer(grey, grey)  # Rodrigues
    return torch.einsum("bij,bjhw->bihw", turn, images).clamp(-1, 1)


@torch.no_grad()
def whiten(vae: AutoencoderKL, moments: Tensor) -> None:
    """Make latents uncorrelated and of unit variance, by a change of `quant_conv` and `post_quant_conv` in
    place. Reconstructions from posterior means stay the same.

    Diffusion adds noise of the same variance to every direction of the latents, so that directions of small
    variance, such as the differences of correlated channels, are lost in it at most timesteps. Of all
    whitening transforms this is the symmetric one, Σ^(-1/2). The posterior stays diagonal: each of its
    variances is scaled so that its mean is that of the transformed posterior.

    Args:
        moments: means and log variances (N, 2C, H, W) of posteriors of training images
    """
    mean, logvar = moments.double().transpose(0, 1).flatten(1).chunk(2)
    centre = mean.mean(1)
    variances, directions = torch.linalg.eigh(torch.cov(mean))
    std = variances.clamp_min(0).sqrt()
    std = std.clamp_min(FLOOR * float(std.max()))
    forward, back = (directions * scale @ directions.T for scale in (1 / std, std))
    level = (forward.square() @ logvar.exp().mean(1)).log() - logvar.mean(1)

    weight, bias = (parameter.double() for parameter in (vae.quant_conv.weight, vae.quant_conv.bias))
    count = len(centre)
    vae.quant_conv.weight[:count] = torch.einsum("oi,ijkl->ojkl", forward, weight[:count]).float()
    vae.quant_conv.bias[:count] = (forward @ (bias[:count] - centre)).float()
    vae.quant_conv.bias[count:] = (bias[count:] + level).float()

    weight, bias = (
        parameter.double() for parameter in (vae.post_quant_conv.weight, vae.post_quant_conv.bias)
    )
    vae.post_quant_conv.weight.copy_(torch.einsum("oikl,ij->ojkl", weight, back))
    vae.post_quant_conv.bias.copy_(bias + weight[:, :, 0, 0] @ centre)


def with_frozen_encoder(folder: str, like: AutoencoderKL) -> AutoencoderKL:
    """The VAE of a model folder with everything but its decoder frozen. Raises InputError if its weights are
    of another architecture than `like`."""
    vae = load_vae(Path(folder))
    shapes, wanted = (
        {name: tensor.shape for name, tensor in model.state_dict().items()} for model in (vae, like)
    )
    if shapes != wanted:
        raise InputError(f"decoder_of {folder} is of another architecture: set block_out_channels to its own")
    vae.requires_grad_(False)
    for part in (vae.post_quant_conv, vae.decoder):
        part.requires_grad_(True)
    return vae
