"""Small decoders of latents, for previews: a linear one of a model's own, or diffusers' AutoencoderTiny.

Shape letters: N images, H W latent size, f the VAE's downsampling, S = f*H image side.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import InputError
from core.model_folders import load_model
from core.tensors import read_json


class PreviewDecoder(ModelMixin, ConfigMixin):
    """A linear decoder: a convolution of the latents, whose channels are the pixels of f×f squares.

    Args:
        latent_channels: channels of the latents
        upsampling: f
        kernel: side of the convolution, odd
    """

    @register_to_config
    def __init__(self, latent_channels: int = 4, upsampling: int = 8, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(latent_channels, 3 * upsampling**2, kernel, padding=kernel // 2)

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Decode latents (N, 4, H, W) in F's scale; `sample` are images (N, 3, S, S), about in [-1, 1]."""
        return DecoderOutput(sample=F.pixel_shuffle(self.conv(latents), self.config.upsampling))


Decoder: TypeAlias = PreviewDecoder | AutoencoderTiny
DECODERS: tuple[type[Any], ...] = (PreviewDecoder, AutoencoderTiny)


def load_decoder(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """Load a small decoder from its folder. Raises InputError if there is none, or it is damaged."""
    decoder: Decoder = load_model(decoder_class(folder), folder, dtype)
    return decoder


def decoder_class(folder: Path) -> type[Any]:
    """The class of the small decoder in a folder. Raises InputError if there is none."""
    if not folder.is_dir():
        raise InputError(f"decoder {folder}: there is no such folder")
    name = read_json(folder / "config.json").get("_class_name")
    for kind in DECODERS:
        if name == kind.__name__:
            return kind
    raise InputError(
        f"decoder {folder}: it holds {name}, not {' or '.join(kind.__name__ for kind in DECODERS)}"
    )


@torch.no_grad()
def fit_decoder(pairs: Iterable[tuple[Tensor, Tensor]], upsampling: int, kernel: int = 3) -> PreviewDecoder:
    """The linear decoder of least squared error over batches of latents (N, 4, H, W) in F's scale and images
    (N, 3, S, S) in [-1, 1], by the normal equations.

    Raises InputError if there are no batches.
    """
    products: list[tuple[Tensor, Tensor]] = []
    channels = 0
    for latents, images in pairs:
        channels = latents.shape[1]
        seen = F.unfold(latents.double(), kernel, padding=kernel // 2)  # (N, 4*kernel², H*W)
        seen = F.pad(seen, (0, 0, 0, 1), value=1.0).transpose(1, 2).flatten(0, 1)  # and the bias
        wanted = F.pixel_unshuffle(images.double(), upsampling).flatten(2).transpose(1, 2).flatten(0, 1)
        products.append((seen.T @ seen, seen.T @ wanted))
    if not products:
        raise InputError("no images to fit a decoder to")
    left, right = (sum(parts[1:], parts[0]) for parts in zip(*products, strict=True))
    solved = torch.linalg.lstsq(left, right).solution.T.float()  # (3*f², 4*kernel² + 1)
    decoder = PreviewDecoder(channels, upsampling, kernel)
    decoder.conv.weight.copy_(solved[:, :-1].reshape(decoder.conv.weight.shape))
    decoder.conv.bias.copy_(solved[:, -1])
    return decoder.eval()
