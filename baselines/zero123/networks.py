"""Zero-1-to-3's networks: Stable Diffusion's, conditioned on the source image and the camera.

Shape letters: B images, H W latent size.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import InputError

POSE = 4  # numbers of a relative camera
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class CCProjection(ModelMixin, ConfigMixin):
    """CLIP's embedding of the source image and the relative camera, mixed to the one context token."""

    @register_to_config
    def __init__(self, in_channel: int = 772, out_channel: int = 768) -> None:
        super().__init__()
        self.projection = nn.Linear(in_channel, out_channel)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_channel) to (..., out_channel)."""
        return self.projection(x)


@dataclass(frozen=True)
class Networks:
    """The four networks, in float32 and ready for inference; `image_encoder` is transformers'
    `CLIPVisionModelWithProjection`."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    image_encoder: Any
    cc_projection: CCProjection

    def to(self, device: str) -> Self:
        """All of them on a device, in place."""
        for part in (self.unet, self.vae, self.image_encoder, self.cc_projection):
            nn.Module.to(part, device)
        return self

    @property
    def image_size(self) -> int:
        """The side of the images that the UNet was trained on."""
        halvings = len(self.vae.config.block_out_channels) - 1
        return int(self.unet.config.sample_size) * 2**halvings

    def image_latent(self, image: Tensor) -> Tensor:
        """The source (B, 3, S, S) in [-1, 1] as the UNet's input (B, 4, H, W): the posterior's mean, which
        unlike sampled latents is not scaled."""
        return self.vae.encode(image.contiguous()).latent_dist.mode()

    def embedding(self, image: Tensor) -> Tensor:
        """CLIP's embedding (B, D) of images (B, 3, S, S) in [-1, 1], not normalised."""
        return self.image_encoder(self.clip_pixels(image)).image_embeds

    def clip_pixels(self, image: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] as CLIP's input: resized bicubically with aligned corners, without
        antialiasing or cropping."""
        side = self.image_encoder.config.image_size
        resized = F.interpolate(image, size=(side, side), mode="bicubic", align_corners=True)
        mean, std = (resized.new_tensor(x).view(1, 3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
        return ((resized + 1) / 2 - mean) / std

    def context(self, embedding: Tensor, pose: Tensor) -> Tensor:
        """The UNet's context (B, 1, D) of an embedding (1 or B, D) and relative cameras (B, 4)."""
        both = torch.cat([embedding.expand(len(pose), -1), pose], dim=1)
        return self.cc_projection(both).unsqueeze(1)

    def decode(self, latents: Tensor) -> Tensor:
        """Sampled latents (B, 4, H, W) to images (B, 3, S, S), in [-1, 1] but for a little overshoot."""
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample


def image_encoder_of(config: dict[str, Any]) -> Any:
    """CLIP's image tower of a transformers config, without weights, on the meta device. Raises InputError
    if transformers is missing or the config makes none."""
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError:
        raise InputError(
            "Zero-1-to-3 needs transformers for CLIP's image encoder: pip install 'diffportrait3d[sd15]'"
        ) from None
    try:
        with torch.device("meta"):
            return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the image encoder's config does not describe a CLIP image encoder: {error}"
        ) from error
