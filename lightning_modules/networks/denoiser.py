"""F with the paper's attached networks: Eqs. 1-5.

Shape letters: B portraits, V views of a portrait, N = B*V, C channels, H W latent size, S image side.
"""

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from core.errors import InputError
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.layers import (
    Context,
    Layer,
    check_latents,
    down_layers,
    embed_time,
    maybe_checkpoint,
    mid_layers,
    run_layer,
    self_attentions,
    up_layers,
)
from lightning_modules.networks.reference import Bank, ProjectedBank, ReferenceBank
from lightning_modules.networks.view_control import Residuals, control_residuals, embed_condition


class Denoiser(nn.Module):
    """ε_θ of the paper: F with a reference bank (3.2) and, if given, F_cam (3.3) and V (3.4).

    `empty_prompt` is the text embedding (1, T, D) of "". Callers set `requires_grad` of the parts.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        empty_prompt: Tensor,
        control: ControlNetModel | None = None,
        cross_view: CrossView | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.control = control
        self.cross_view = cross_view
        self.gradient_checkpointing = gradient_checkpointing
        self.register_buffer("empty_prompt", empty_prompt, persistent=False)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        bank: Bank | None = None,
        condition: Tensor | None = None,
        hint: Tensor | None = None,
        views: int = 1,
    ) -> Tensor:
        """Predict the noise ε (N, 4, H, W) in noised latents.

        Args:
            latents: noised latents (N, 4, H, W)
            timesteps: (N,)
            bank: features of B portraits, each read by `views` consecutive items; None for no reference, as
                in the unconditional pass
            condition: images (N, 3, S, S) in [-1, 1] for F_cam
            hint: their embedding by `embed_condition`, instead of `condition`; without both, F_cam does not
                run
            views: V, the number of consecutive items that V attends over

        Raises InputError if shapes do not fit.
        """
        self._check(latents, bank, views)
        if condition is not None:
            hint = self.embed_condition(condition)
        residuals = None if hint is None else self.control_residuals(latents, timesteps, hint)
        time = embed_time(self.unet, timesteps, latents.dtype)
        context = Context(time, self.empty_prompt, None if bank is None else bank.keys_values)
        skips = self._encode(latents, context, views)
        hidden = self._middle(skips[-1], context, views)
        if residuals is not None:
            hidden = hidden + residuals.middle
            skips = [skip + residual for skip, residual in zip(skips, residuals.skips, strict=True)]
        hidden = self._decode(hidden, skips, context, views)
        return self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(hidden)))

    def embed_condition(self, condition: Tensor) -> Tensor:
        """Embed condition images (N, 3, S, S) in [-1, 1] as F_cam's hint (N, C, H, W), which is the same at
        every timestep."""
        if self.control is None:
            raise InputError("condition images were given, but the model has no view control (F_cam)")
        return embed_condition(self.control, condition)

    def control_residuals(self, latents: Tensor, timesteps: Tensor, hint: Tensor) -> Residuals:
        """F_cam's residuals for noised latents (N, 4, H, W) at timesteps (N,) and a hint (N, C, H, W)."""
        return control_residuals(
            self.control, latents, timesteps, self.empty_prompt, hint, self.gradient_checkpointing
        )

    def project(self, bank: ReferenceBank) -> ProjectedBank:
        """Project a bank to F's keys and values, for use in several calls."""
        layers = down_layers(self.unet) + mid_layers(self.unet) + up_layers(self.unet)
        return bank.project(self_attentions(layers))

    def _check(self, latents: Tensor, bank: Bank | None, views: int) -> None:
        check_latents(self.unet, latents)
        if views < 1 or latents.shape[0] % views:
            raise InputError(f"{latents.shape[0]} latents are not a multiple of {views} views")
        if bank is not None and bank.portraits != latents.shape[0] // views:
            raise InputError(
                f"a bank of {bank.portraits} portraits for {latents.shape[0]} latents of {views} views each"
            )
        if self.cross_view is not None:
            self.cross_view.check_views(views)

    def _encode(self, latents: Tensor, context: Context, views: int) -> list[Tensor]:
        skips = [self.unet.conv_in(latents)]
        for index, layer in enumerate(down_layers(self.unet)):
            hidden = self._run(layer, skips[-1], context)
            if self.cross_view is not None:
                hidden = self._mix(self.cross_view.down[index], hidden, views)
            skips.append(hidden)
        return skips

    def _middle(self, hidden: Tensor, context: Context, views: int) -> Tensor:
        *attending, last = mid_layers(self.unet)
        for layer in attending:
            hidden = self._run(layer, hidden, context)
        if self.cross_view is not None and self.cross_view.runs_middle(conditional=context.read is not None):
            hidden = self._mix(self.cross_view.mid, hidden, views)
        return self._run(last, hidden, context)

    def _decode(self, hidden: Tensor, skips: list[Tensor], context: Context, views: int) -> Tensor:
        layers = up_layers(self.unet)
        for index, (layer, skip) in enumerate(zip(layers, reversed(skips), strict=True)):
            hidden = self._run(layer, torch.cat([hidden, skip], dim=1), context)
            for mix in self.cross_view.up[index] if self.cross_view is not None else ():
                hidden = self._mix(mix, hidden, views)
        return hidden

    def _run(self, layer: Layer, hidden: Tensor, context: Context) -> Tensor:
        return maybe_checkpoint(self.gradient_checkpointing, _hidden, layer, hidden, context)

    def _mix(self, module: nn.Module, hidden: Tensor, views: int) -> Tensor:
        return maybe_checkpoint(self.gradient_checkpointing, module, hidden, views)


def _hidden(layer: Layer, hidden: Tensor, context: Context) -> Tensor:
    return run_layer(layer, hidden, context)[0]
