"""Encoding of images by the VAE and decoding of latents, in chunks.

Shape letters: S image side, H W latent size.
"""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from portraits.pixels import levels_to_pixels, pixels_to_levels


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, chunk: int) -> Tensor:
    """Encode images (…, 3, S, S), in [-1, 1] or uint8, as float32 latents (…, 4, H, W) in F's scale: the
    posterior's means. `chunk` images are encoded at a time."""
    means = []
    for part in images.flatten(0, -4).split(chunk):
        pixels = levels_to_pixels(part) if part.dtype == torch.uint8 else part
        means.append(vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean.float())
    return torch.cat(means).mul(vae.config.scaling_factor).unflatten(0, images.shape[:-3])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, chunk: int, levels: bool = False) -> Tensor:
    """Decode latents (N, 4, H, W) in F's scale to images (N, 3, S, S) on the CPU, in [-1, 1] or uint8 if
    `levels`.

    `chunk` images are decoded at a time.
    """
    images = []
    for part in latents.div(vae.config.scaling_factor).to(vae.dtype).split(chunk):
        pixels = vae.decode(part).sample.float().clamp(-1, 1)
        images.append((pixels_to_levels(pixels) if levels else pixels).cpu())
    return torch.cat(images)
