"""F with the paper's attached networks: Eqs. 1-5.

Shape letters: B portraits, V views of a portrait, N = B*V, C channels, H W latent size, S image side.
"""

from dataclasses import dataclass

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


@dataclass
class DeepFeatures:
    """Features that one call of the denoiser caches for the next ones, whose latents differ little
    (DeepCache, Ma et al. 2024): the input of the decoder's last block, and F_cam's residuals on the skips of
    that block.

    A call with `hidden` runs only F's outer blocks, those at the resolution of the latents.
    """

    hidden: Tensor | None = None
    residuals: list[Tensor] | None = None


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
        prompt: Tensor | None = None,
        both: bool = False,
        deep: DeepFeatures | None = None,
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
            prompt: the embedding (1, T, D) that F's text attention reads, instead of the empty prompt's;
                F_cam reads the empty one
            both: predict the unconditional noise as well, in one batch: (2N, 4, H, W), the conditional first
            deep: keeps the features of F's deep layers, or holds those of an earlier call, for which they are
                then not computed; see `DeepFeatures`

        Raises InputError if shapes do not fit.
        """
        self._check(latents, bank, views, prompt)
        if condition is not None:
            hint = self.embed_condition(condition)
        context = self._context(latents, timesteps, bank, prompt, both)
        items = torch.cat([latents, latents]) if both else latents
        outer = outer_layers(self.unet)
        if deep is not None and deep.hidden is not None:
            hidden = deep.hidden
            skips = _added(self._encode(items, context, views, outer - 1), deep.residuals)
        else:
            residuals = None if hint is None else self.control_residuals(latents, timesteps, hint)
            skips = self._encode(items, context, views)
            hidden = self._middle(skips[-1], context, views)
            if residuals is not None:
                (hidden,) = _added([hidden], [residuals.middle])
                skips = _added(skips, residuals.skips)
            hidden = self._decode(hidden, skips[outer:], context, views)
            if deep is not None:
                deep.hidden = hidden
                deep.residuals = None if residuals is None else residuals.skips[:outer]
        hidden = self._decode(hidden, skips[:outer], context, views, last=True)
        return self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(hidden)))

    def _context(
        self,
        latents: Tensor,
        timesteps: Tensor,
        bank: Bank | None,
        prompt: Tensor | None,
        both: bool,
    ) -> Context:
        time = embed_time(self.unet, timesteps, latents.dtype)
        read = None if bank is None else bank.keys_values
        given = self.empty_prompt if prompt is None else prompt
        if not both:
            return Context(time, given, read)
        prompts = given if prompt is None else torch.cat([given, self.empty_prompt])
        return Context(torch.cat([time, time]), prompts, read, len(latents))

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

    def _check(self, latents: Tensor, bank: Bank | None, views: int, prompt: Tensor | None) -> None:
        check_latents(self.unet, latents)
        if views < 1 or latents.shape[0] % views:
            raise InputError(f"{latents.shape[0]} latents are not a multiple of {views} views")
        if bank is not None and bank.portraits != latents.shape[0] // views:
            raise InputError(
                f"a bank of {bank.portraits} portraits for {latents.shape[0]} latents of {views} views each"
            )
        if prompt is not None and prompt.shape != self.empty_prompt.shape:
            raise InputError(
                f"a prompt of {tuple(prompt.shape)}, but this F reads {tuple(self.empty_prompt.shape)}: "
                "its text encoder is another model's"
            )
        if self.cross_view is not None:
            self.cross_view.check_views(views)

    def _encode(
        self, latents: Tensor, context: Context, views: int, count: int | None = None
    ) -> list[Tensor]:
        """The skip connections of the first `count` layers (None: all), after that of `conv_in`."""
        skips = [self.unet.conv_in(latents)]
        for index, layer in enumerate(down_layers(self.unet)[:count]):
            hidden = self._run(layer, skips[-1], context)
            if self.cross_view is not None:
                hidden = self._mix(self.cross_view.down[index], hidden, views)
            skips.append(hidden)
        return skips

    def _middle(self, hidden: Tensor, context: Context, views: int) -> Tensor:
        *attending, last = mid_layers(self.unet)
        for layer in attending:
            hidden = self._run(layer, hidden, context)
        if self.cross_view is not None:
            hidden = self._mix_middle(self.cross_view, hidden, context, views)
        return self._run(last, hidden, context)

    def _mix_middle(self, cross_view: CrossView, hidden: Tensor, context: Context, views: int) -> Tensor:
        conditional = 0 if context.read is None else context.reading or len(hidden)
        parts = zip((True, False), hidden.tensor_split([conditional]), strict=True)
        mixed = [
            self._mix(cross_view.mid, part, views) if cross_view.runs_middle(read) else part
            for read, part in parts
            if len(part)
        ]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _decode(
        self, hidden: Tensor, skips: list[Tensor], context: Context, views: int, last: bool = False
    ) -> Tensor:
        """Run as many layers as there are `skips`: the first of the decoder, or its last."""
        layers = list(enumerate(up_layers(self.unet)))
        chosen = layers[-len(skips) :] if last else layers[: len(skips)]
        for (index, layer), skip in zip(chosen, reversed(skips), strict=True):
            hidden = self._run(layer, torch.cat([hidden, skip], dim=1), context)
            for mix in self.cross_view.up[index] if self.cross_view is not None else ():
                hidden = self._mix(mix, hidden, views)
        return hidden

    def _run(self, layer: Layer, hidden: Tensor, context: Context) -> Tensor:
        return maybe_checkpoint(self.gradient_checkpointing, _hidden, layer, hidden, context)

    def _mix(self, module: nn.Module, hidden: Tensor, views: int) -> Tensor:
        return maybe_checkpoint(self.gradient_checkpointing, module, hidden, views)


def outer_layers(unet: UNet2DConditionModel) -> int:
    """The number of F's outer layers: those of the decoder's last block, whose resolution is the latents'."""
    return len(unet.up_blocks[-1].resnets)


def _hidden(layer: Layer, hidden: Tensor, context: Context) -> Tensor:
    return run_layer(layer, hidden, context)[0]


def _added(hidden: list[Tensor], residuals: list[Tensor] | None) -> list[Tensor]:
    """Each hidden state (N, C, H, W), or (2N, C, H, W) of both passes, with F_cam's residual (N, C, H, W)
    added to its first N items."""
    if residuals is None:
        return hidden
    pairs = zip(hidden, residuals, strict=True)
    return [
        state + residual
        if len(state) == len(residual)
        else torch.cat([state[: len(residual)] + residual, state[len(residual) :]])
        for state, residual in pairs
    ]
