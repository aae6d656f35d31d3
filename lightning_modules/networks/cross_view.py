"""V, view consistency (3.4): attention across the views of one portrait, at each pixel.

Shape letters: B portraits, V views of a portrait, N = B*V, P = B*H*W pixels, C channels, H W latent size.
"""

import math
from typing import Any, Literal, Self, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from core.errors import InputError
from core.model_folders import place_like
from lightning_modules.networks.layers import Layer, attend, down_layers, project, up_layers

Middle = Literal["always", "unconditional", "never"]
POSITIONS = 32  # views with positional encodings, by default
MAX_ITEMS = 2**15  # batch of one attention call; CUDA kernels limit it to a launch dimension of 65,535


def sinusoids(length: int, channels: int) -> Tensor:
    """The positional encoding (1, length, channels): sine on even channels, cosine on odd."""
    rate = torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
    angle = torch.arange(length).unsqueeze(1) * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).unsqueeze(0)


class ViewAttention(nn.Module):
    """Residual self-attention over views (P, V, C), with positional encodings added to its normalised
    input."""

    def __init__(self, channels: int, heads: int, positions: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(query_dim=channels, heads=heads, dim_head=channels // heads)
        self.register_buffer("positions", sinusoids(positions, channels) if positions else None)

    def forward(self, tokens: Tensor) -> Tensor:
        """(P, V, C) to (P, V, C)."""
        normed = self.norm(tokens)
        if self.positions is not None:
            normed = normed + self.positions[:, : tokens.shape[1]].to(normed.dtype)
        mixed = [attend(self.attention, x, *project(self.attention, x)) for x in normed.split(MAX_ITEMS)]
        return tokens + (mixed[0] if len(mixed) == 1 else torch.cat(mixed))


class ViewBlock(nn.Module):
    """Self-attentions over views and a feed-forward (P, V, C)."""

    def __init__(self, channels: int, heads: int, positions: int, attentions: int, ff_mult: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(ViewAttention(channels, heads, positions) for _ in range(attentions))
        self.ff_norm = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, mult=ff_mult)

    def forward(self, tokens: Tensor) -> Tensor:
        """(P, V, C) to (P, V, C)."""
        for attention in self.attentions:
            tokens = attention(tokens)
        return tokens + self.ff(self.ff_norm(tokens))


class ViewTransformer(nn.Module):
    """One module of V: (B*V, C, H, W) → (B*H*W, V, C) and back, with a zero-initialised residual."""

    def __init__(
        self,
        channels: int,
        heads: int,
        groups: int,
        positions: int,
        layers: int,
        attentions: int,
        ff_mult: int,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(
            ViewBlock(channels, heads, positions, attentions, ff_mult) for _ in range(layers)
        )
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, hidden: Tensor, views: int) -> Tensor:
        """(B*V, C, H, W), with the V = `views` of a portrait consecutive, to the same shape."""
        height, width = hidden.shape[2:]
        tokens = self.norm(hidden).unflatten(0, (-1, views))  # (B, V, C, H, W)
        tokens = self.proj_in(tokens.permute(0, 3, 4, 1, 2).flatten(0, 2))  # (B*H*W, V, C)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.proj_out(tokens).unflatten(0, (-1, height, width))  # (B, H, W, V, C)
        return hidden + tokens.permute(0, 3, 4, 1, 2).flatten(0, 1)


class CrossView(ModelMixin, ConfigMixin):
    """V: a `ViewTransformer` after each of F's layers, placed as in the released model.

    Args:
        down_channels: widths after F's encoder layers; the first skip has no module
        middle_channels: width of the middle
        up_channels: widths after F's decoder layers
        up_modules: number of successive modules after each decoder layer, behind its upsampler
        middle: passes of guided sampling in which the middle module runs, between the middle's attention and
            its last residual block. The released sampler runs it only in the unconditional pass, which
            training does not use. With "never" the module does not exist
        positions: largest number of views with positional encodings; 0 for no encodings and any number of
            views
        heads: attention heads
        norm_num_groups: groups of the group normalisations
        layers: blocks of each module
        attentions: self-attentions of each block
        ff_mult: expansion of the feed-forward layers
    """

    @register_to_config
    def __init__(
        self,
        down_channels: tuple[int, ...],
        middle_channels: int,
        up_channels: tuple[int, ...],
        up_modules: tuple[int, ...],
        middle: Middle = "never",
        positions: int = POSITIONS,
        heads: int = 8,
        norm_num_groups: int = 32,
        layers: int = 1,
        attentions: int = 2,
        ff_mult: int = 4,
    ) -> None:
        super().__init__()
        if middle not in get_args(Middle):
            raise InputError(f"middle={middle!r}: choose when V's middle module runs from {get_args(Middle)}")

        def module(channels: int) -> ViewTransformer:
            return ViewTransformer(channels, heads, norm_num_groups, positions, layers, attentions, ff_mult)

        self.down = nn.ModuleList(module(channels) for channels in down_channels)
        self.mid = module(middle_channels) if middle != "never" else None
        rows = zip(up_channels, up_modules, strict=True)
        self.up = nn.ModuleList(nn.ModuleList(module(channels) for _ in range(n)) for channels, n in rows)

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        middle: Middle = "never",
        positions: int = POSITIONS,
        heads: int = 8,
        layers: int = 1,
        attentions: int = 2,
        ff_mult: int = 4,
    ) -> Self:
        """V for this UNet, with outputs of zero until it is trained; on F's device and in F's dtype."""
        up = up_layers(unet)
        cross_view = cls(
            down_channels=tuple(_width(layer) for layer in down_layers(unet)),
            middle_channels=unet.config.block_out_channels[-1],
            up_channels=tuple(_width(layer) for layer in up),
            up_modules=tuple(1 if layer.resample is None else 2 for layer in up),
            middle=middle,
            positions=positions,
            heads=heads,
            norm_num_groups=unet.config.norm_num_groups,
            layers=layers,
            attentions=attentions,
            ff_mult=ff_mult,
        )
        return place_like(cross_view, unet)

    def check_views(self, views: int) -> None:
        """Raise InputError if there are more views than V has positional encodings for."""
        check_views(views, self.config.positions)

    def runs_middle(self, conditional: bool) -> bool:
        """Whether the middle module runs in a pass with (or without) a reference bank."""
        return self.config.middle == "always" or (self.config.middle == "unconditional" and not conditional)


def check_views(views: int, positions: int) -> None:
    """Raise InputError if V with this number of `positions` (0 for any) cannot attend over `views` views."""
    if positions and views > positions:
        raise InputError(
            f"{views} views at once, but V has positional encodings for {positions}: "
            "use fewer, or train V with positions=0"
        )


def _width(layer: Layer) -> int:
    last: Any = layer.resample if layer.resnet is None else layer.resnet
    return last.out_channels
