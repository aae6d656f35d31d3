"""F_cam, view control (3.3): a ControlNet copy of F, conditioned on an image of another person at the target
camera.

Shape letters: N items of a batch, C channels, H W latent size, S image side.
"""

import math
from typing import NamedTuple

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from core.errors import InputError
from core.model_folders import place_like
from lightning_modules.networks.layers import (
    Context,
    check_latents,
    down_layers,
    embed_time,
    maybe_checkpoint,
    mid_layers,
    run_layer,
)

SILU_GAIN = 1.68  # 1 / √E[silu(x)²] for normal x
HINT_CHANNELS = (16, 32, 96, 256, 256, 256)  # the first at full resolution, then halved each time


class Residuals(NamedTuple):
    """F_cam's residuals on F: one (N, C, H, W) for each skip connection, and one for the middle."""

    skips: list[Tensor]
    middle: Tensor


def view_control(unet: UNet2DConditionModel, downsampling: int) -> ControlNetModel:
    """F_cam before training: F's encoder with zero convolutions, so that its residuals are zero.

    The hint encoder starts with convolutions that preserve the variance of their inputs. diffusers' last one
    is zero and, followed by zero convolutions, would get almost no gradient until these have grown; PyTorch's
    default for the others lets the hint vary 350 times less than the features it is added to. `downsampling`
    is the VAE's factor, a power of two (8 for Stable Diffusion 1.5), by which condition images are
    downsampled as well. Raises InputError for other factors.
    """
    halvings = math.log2(downsampling)
    if not halvings.is_integer() or not 0 <= halvings < len(HINT_CHANNELS):
        raise InputError(
            f"a VAE that downsamples by {downsampling}: view control supports 1, 2, 4, 8, 16 or 32"
        )
    channels = HINT_CHANNELS[: int(halvings) + 1]
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
    for module in control.controlnet_cond_embedding.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = math.prod(module.weight.shape[1:])
            nn.init.normal_(module.weight, std=SILU_GAIN / math.sqrt(fan_in))
            nn.init.zeros_(module.bias)
    return place_like(control, unet)


def embed_condition(control: ControlNetModel, condition: Tensor) -> Tensor:
    """Embed condition images (N, 3, S, S) in [-1, 1] as the hint (N, C, H, W), which is added to F_cam's
    first features.

    Raises InputError for images with another number of channels.
    """
    channels = control.controlnet_cond_embedding.conv_in.in_channels
    if condition.ndim != 4 or condition.shape[1] != channels:
        raise InputError(f"condition of shape {tuple(condition.shape)}: F_cam takes (N, {channels}, S, S)")
    return control.controlnet_cond_embedding(condition)


def control_residuals(
    control: ControlNetModel,
    latents: Tensor,
    timesteps: Tensor,
    prompt: Tensor,
    hint: Tensor,
    gradient_checkpointing: bool = False,
) -> Residuals:
    """F_cam's residuals for noised latents (N, 4, H, W), timesteps (N,), empty prompt (1, T, D) and hint (N,
    C, H, W).

    As `ControlNetModel.forward`, which however computes the hint at every call. Raises InputError if the
    sizes of hint and latents differ.
    """
    check_latents(control, latents)
    if hint.shape[0] != latents.shape[0] or hint.shape[2:] != latents.shape[2:]:
        raise InputError(
            f"condition images give a hint of {tuple(hint.shape)} for latents of {tuple(latents.shape)}: "
            "give one for each view, of the targets' size"
        )
    context = Context(embed_time(control, timesteps, latents.dtype), prompt)
    skips = [control.conv_in(latents) + hint]
    for layer in down_layers(control):
        skips.append(maybe_checkpoint(gradient_checkpointing, run_layer, layer, skips[-1], context)[0])
    hidden = skips[-1]
    for layer in mid_layers(control):
        hidden = maybe_checkpoint(gradient_checkpointing, run_layer, layer, hidden, context)[0]
    outputs = zip(control.controlnet_down_blocks, skips, strict=True)
    return Residuals([zero(skip) for zero, skip in outputs], control.controlnet_mid_block(hidden))
