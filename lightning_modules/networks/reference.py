"""F_ref, the appearance reference (3.2), and the bank of its features, which F reads (Eqs. 2-5).

Shape letters: B portraits, R references of a portrait, C channels, H W latent size, L tokens (H*W).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from core.errors import InputError
from lightning_modules.networks.layers import (
    Context,
    KeysValues,
    Layer,
    attention_name,
    check_latents,
    down_layers,
    embed_time,
    maybe_checkpoint,
    mid_layers,
    project,
    run_block,
    run_layer,
    to_tokens,
    up_layers,
)

STEM = ("conv_in", "time_proj", "time_embedding", "down_blocks", "mid_block", "up_blocks")


class ReferenceBank(Mapping[str, Tensor]):
    """The normalised inputs (B, R*L, C) of F_ref's self-attentions, by their names in the UNet.

    The bank is immutable; F_ref returns it, and it is passed to F as an argument.
    """

    def __init__(self, features: Mapping[str, Tensor]) -> None:
        self.features = dict(features)

    def __getitem__(self, name: str) -> Tensor:
        return self.features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def portraits(self) -> int:
        """B."""
        return next(iter(self.features.values())).shape[0]

    def keys_values(self, name: str, attention: Attention) -> KeysValues:
        """The features projected to keys and values, (B, R*L, C) each, by F's attention of this name."""
        return project(attention, self.features[name])

    def to(self, device: torch.device) -> Self:
        """Move the bank to a device."""
        return type(self)({name: x.to(device) for name, x in self.features.items()})

    def project(self, attentions: Mapping[str, Attention]) -> "ProjectedBank":
        """Project all features with F's projections, for a bank that is read many times (sampling)."""
        return ProjectedBank({name: self.keys_values(name, attentions[name]) for name in self})


class ProjectedBank(Mapping[str, KeysValues]):
    """A `ReferenceBank` as keys and values (B, R*L, C) of F's self-attentions, by name."""

    def __init__(self, projections: Mapping[str, KeysValues]) -> None:
        self.projections = dict(projections)

    def __getitem__(self, name: str) -> KeysValues:
        return self.projections[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.projections)

    def __len__(self) -> int:
        return len(self.projections)

    @property
    def portraits(self) -> int:
        """B."""
        return next(iter(self.projections.values()))[0].shape[0]

    def to(self, device: torch.device) -> Self:
        """Move the bank to a device."""
        return type(self)({name: (k.to(device), v.to(device)) for name, (k, v) in self.projections.items()})

    def keys_values(self, name: str, attention: Attention) -> KeysValues:  # noqa: ARG002
        """The keys and values of F's attention of this name."""
        return self.projections[name]


Bank = ReferenceBank | ProjectedBank


class AppearanceReference(ModelMixin, ConfigMixin):
    """F_ref: a trainable copy of F that turns clean portrait latents into a `ReferenceBank` (3.2).

    Its modules have F's names. Modules after the normalised input of the last self-attention have no effect
    and are removed. `unet` are the settings of F's `UNet2DConditionModel`.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, unet: dict[str, Any]) -> None:
        super().__init__()
        whole = UNet2DConditionModel.from_config(unet)
        for name in STEM:
            setattr(self, name, getattr(whole, name))
        self.gradient_checkpointing = False
        prune(self)

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel) -> Self:
        """A copy of F with its weights, on F's device and in F's dtype."""
        with torch.device("meta"):
            reference = cls({name: value for name, value in unet.config.items() if not name.startswith("_")})
        weights = unet.state_dict()
        reference.load_state_dict(
            {name: weights[name].clone() for name in reference.state_dict()}, assign=True
        )
        return reference

    def forward(self, latents: Tensor, timesteps: Tensor, empty_prompt: Tensor) -> ReferenceBank:
        """The bank of clean scaled latents (B, R, 4, H, W) at timesteps (B,), with the empty prompt (1, T,
        D).

        Features of the R references of a portrait are concatenated along tokens (Eq. 5): (B, R*L, C). Raises
        InputError for latents of unsupported shapes.
        """
        references = latents.shape[1]
        features = self.features(latents.flatten(0, 1), timesteps.repeat_interleave(references), empty_prompt)
        return ReferenceBank(
            {name: x.unflatten(0, (-1, references)).flatten(1, 2) for name, x in features.items()}
        )

    def features(self, latents: Tensor, timesteps: Tensor, empty_prompt: Tensor) -> dict[str, Tensor]:
        """The normalised input (N, L, C) of each self-attention, for latents (N, 4, H, W) at timesteps
        (N,)."""
        return attention_inputs(self, latents, timesteps, empty_prompt, self.gradient_checkpointing)


def attention_inputs(
    network: "AppearanceReference | UNet2DConditionModel",
    latents: Tensor,
    timesteps: Tensor,
    empty_prompt: Tensor,
    gradient_checkpointing: bool = False,
) -> dict[str, Tensor]:
    """The normalised input (N, L, C) of each self-attention of F_ref, or of F, by name, for latents (N, 4, H,
    W) at timesteps (N,). Modules after the last of them are not run."""
    check_latents(network, latents)
    context = Context(embed_time(network, timesteps, latents.dtype), empty_prompt)
    features: dict[str, Tensor] = {}

    def step(layer: Layer, hidden: Tensor) -> Tensor:
        hidden, found = maybe_checkpoint(gradient_checkpointing, run_layer, layer, hidden, context)
        features.update(found)
        return hidden

    hidden = network.conv_in(latents)
    skips = [hidden]
    for layer in down_layers(network):
        hidden = step(layer, hidden)
        skips.append(hidden)
    for layer in mid_layers(network):
        hidden = step(layer, hidden)
    layers = up_layers(network)
    end = max(i for i, layer in enumerate(layers) if layer.transformer is not None)
    for layer in layers[:end]:
        hidden = step(layer, torch.cat([hidden, skips.pop()], dim=1))
    hidden = torch.cat([hidden, skips.pop()], dim=1)
    return features | maybe_checkpoint(gradient_checkpointing, run_last_layer, layers[end], hidden, context)


def run_last_layer(layer: Layer, hidden: Tensor, context: Context) -> dict[str, Tensor]:
    """Run F_ref's last layer: as `run_layer`, but only up to the last self-attention's normalised input."""
    assert layer.transformer is not None
    assert layer.resnet is not None
    tokens = to_tokens(layer.transformer, layer.resnet(hidden, context.time))
    *blocks, last = layer.transformer.transformer_blocks
    features = {}
    for index, block in enumerate(blocks):
        name = attention_name(layer, index)
        tokens, features[name] = run_block(name, block, tokens, context)
    return features | {attention_name(layer, len(blocks)): last.norm1(tokens)}


def prune(unet: nn.Module) -> None:
    """Remove, in place, a UNet's modules after the normalised input of its last self-attention.

    Raises InputError if its decoder has no attention.
    """
    attending = [i for i, block in enumerate(unet.up_blocks) if hasattr(block, "attentions")]
    if not attending:
        raise InputError(
            "no attention in the UNet's decoder: up_block_types needs a CrossAttnUpBlock2D to read F_ref"
        )
    unet.up_blocks = unet.up_blocks[: attending[-1] + 1]
    unet.up_blocks[-1].upsamplers = None
    transformer = unet.up_blocks[-1].attentions[-1]
    del transformer.proj_out
    last = transformer.transformer_blocks[-1]
    for name in [name for name, _ in last.named_children() if name != "norm1"]:
        delattr(last, name)
