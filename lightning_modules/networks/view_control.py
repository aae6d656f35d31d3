"""F_cam, view control (3.3): a ControlNet copy of F that sees another person from the wanted camera.

Shape letters: N items of a batch, C channels, H W latent size, S image side.
"""

import math
from typing import NamedTuple

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

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

HINT_CHANNELS = (16, 32, 96, 256, 256, 256)  # the first is full size, each next one half of it


class Residuals(NamedTuple):
    """What F_cam adds to F: one (N, C, H, W) for each skip, and one for the middle."""

    skips: list[Tensor]
    middle: Tensor


def view_control(unet: UNet2DConditionModel, downsampling: int) -> ControlNetModel:
    """F_cam before training: F's encoder with zero convolutions, so that it adds nothing yet.

    The hint encoder's last convolution, zero in diffusers, starts like any other: behind zero convolutions
    already, a second zero would keep the condition from being learned for as long as the first stays small.
    `downsampling` is the VAE's factor (8 for Stable Diffusion 1.5), a power of two, which the condition
    images go through as well. Raises InputError on another factor.
    """
    halvings = math.log2(downsampling)
    if not halvings.is_integer() or not 0 <= halvings < len(HINT_CHANNELS):
        raise InputError(
            f"a VAE that down-samples by {downsampling}: view control takes 1, 2, 4, 8, 16 or 32"
        )
    channels = HINT_CHANNELS[: int(halvings) + 1]
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
    control.controlnet_cond_embedding.conv_out.reset_parameters()
    return place_like(control, unet)


def embed_condition(control: ControlNetModel, condition: Tensor) -> Tensor:
    """Condition images (N, 3, S, S) in [-1, 1] to the hint (N, C, H, W) added to F_cam's first features.

    Raises InputError on images of another number of channels.
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
    """Noised latents (N, 4, H, W), timesteps (N,), empty prompt (1, T, D), hint (N, C, H, W) to residuals.

    The same as `ControlNetModel.forward`, whose hint is computed at every call. Raises InputError on a hint
    of another size than the latents.
    """
    check_latents(control, latents)
    if hint.shape[0] != latents.shape[0] or hint.shape[2:] != latents.shape[2:]:
        raise InputError(
            f"condition images make a hint of {tuple(hint.shape)} for latents of {tuple(latents.shape)}: "
            "there is one for each view, of the targets' size"
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
