"""Encoding of images by the VAE and decoding of latents, in chunks.

Shape letters: S image side, H W latent size.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from core.errors import InputError
from core.model_folders import place_like
from lightning_modules.networks.preview import Decoder, PreviewDecoder, load_decoder
from lightning_modules.sampling.settings import PREVIEW, VAE
from portraits.pixels import levels_to_pixels, pixels_to_levels

NO_PREVIEW = (
    "decoder preview: {model} has no preview_decoder/; fit-preview makes one, or give a folder of diffusers'"
    " AutoencoderTiny"
)


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
def decode(vae: AutoencoderKL | Decoder, latents: Tensor, chunk: int, levels: bool = False) -> Tensor:
    """Decode latents (N, 4, H, W) in F's scale to images (N, 3, S, S) on the CPU, in [-1, 1] or uint8 if
    `levels`, by the VAE or a small decoder.

    `chunk` images are decoded at a time.
    """
    images = []
    for part in latents.div(vae.config.get("scaling_factor", 1.0)).to(vae.dtype).split(chunk):
        pixels = vae.decode(part).sample.float().clamp(-1, 1)
        images.append((pixels_to_levels(pixels) if levels else pixels).cpu())
    return torch.cat(images)


class LatentsMixin:
    """The VAE, and the small decoder, of a `DiffusionPipeline`."""

    vae: AutoencoderKL
    preview_decoder: PreviewDecoder | None
    _loaded: Callable[..., AbstractContextManager[None]]
    _decoder: tuple[str, Decoder] | None = None

    def encode(self, images: Tensor, chunk: int = 8) -> Tensor:
        """Encode images (…, 3, S, S), in [-1, 1] or uint8, as latents (…, 4, H, W); see
        `sampling.latents`."""
        with self._loaded(self.vae):
            return encode(self.vae, images, chunk)

    def decode(self, latents: Tensor, chunk: int = 8, levels: bool = False, decoder: str = VAE) -> Tensor:
        """Decode latents (N, 4, H, W) to images (N, 3, S, S) on the CPU, by the decoder of this name; see
        `sampling.latents`."""
        network = self.decoder(decoder)
        with self._loaded(network):
            return decode(network, latents, chunk, levels)

    def decoder(self, name: str = VAE) -> AutoencoderKL | Decoder:
        """The network of the setting `Sampling.decoder`. Raises InputError if there is none."""
        if name == VAE:
            return self.vae
        if name == PREVIEW:
            if self.preview_decoder is None:
                raise InputError(NO_PREVIEW.format(model="the model"))
            return self.preview_decoder
        if self._decoder is None or self._decoder[0] != name:
            self._decoder = name, load_decoder(Path(name), self.vae.dtype)
        return place_like(self._decoder[1], self.vae)
