"""GOAE's encoder: maps the tokens of Swin v2 to one style for each layer of EG3D's synthesis.

Parameters have the names that published checkpoints give them. Shape letters: N portraits, T tokens, C
channels, W styles, Z numbers of a style.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.goae.swin import SwinSize, SwinV2
from core.errors import InputError

ATTENTION_HEADS = 4
STAGES = 4  # number of Swin's stages
LEVELS = ("coarse", "mid", "fine")
HALVINGS = 32  # a portrait's side over that of the coarsest map

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class EncoderSize:
    """Sizes of the encoder.

    Args:
        swin: sizes of Swin.
        tokens: number of tokens after its last stage.
        style: dimension of a style vector.
        styles: number of styles that are read from the coarse, middle and fine level.
    """

    swin: SwinSize
    tokens: int
    style: int
    styles: tuple[int, int, int]

    @property
    def side(self) -> int:
        """Side of the input portraits in pixels."""
        return HALVINGS * math.isqrt(self.tokens)

    @property
    def count(self) -> int:
        """Number W of output styles. The first is the base alone, the others add a level's detail to it."""
        return 1 + sum(self.styles)

    @classmethod
    def read(cls, shapes: Shapes, where: str) -> Self:
        """The sizes of tensors of these names and shapes. Raises InputError, naming `where`, if a tensor
        is missing that they are read from."""
        try:
            coarse, mid, fine = (shapes[f"mapper_query_spatial_{level}.2.weight"][0] for level in LEVELS)
            size = cls(
                SwinSize.read(shapes, "swin_model"),
                shapes["mapper_base_spatial.0.weight"][1],
                shapes["mapper_base_channel.2.weight"][0],
                (coarse, mid, fine),
            )
        except KeyError as error:
            raise InputError(f"{where}: not GOAE's encoder: it has no tensor {error.args[0]}") from None
        if fault := size.fault():
            raise InputError(f"{where}: not GOAE's encoder: {fault}")
        return size

    def fault(self) -> str:
        """What is inconsistent in these sizes; empty if nothing is."""
        if len(self.swin.depths) != STAGES:
            return f"{len(self.swin.depths)} stages of Swin, not {STAGES}"
        if math.isqrt(self.tokens) ** 2 != self.tokens:
            return f"{self.tokens} tokens are no square"
        split = [(self.style, ATTENTION_HEADS)]
        split += [(self.swin.width << stage, heads) for stage, heads in enumerate(self.swin.heads)]
        return next(
            (f"{width} numbers do not split into {heads} heads" for width, heads in split if width % heads),
            "",
        )


class CrossAttention(nn.Module):
    """Queries that read keys and values: attention, layer norm, a two-layer network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(width, ATTENTION_HEADS, batch_first=True)
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Update queries (N, Q, C) by what they read in `keys` (N, T, C), which are the values too."""
        read, _ = self.multihead_attn(queries, keys, keys, need_weights=False)
        normed = F.layer_norm(queries + read, queries.shape[-1:])
        return normed + self.linear2(torch.relu(self.linear1(normed)))


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, inputs), nn.LeakyReLU(), nn.Linear(inputs, outputs))


def _activated(*widths: int) -> nn.Sequential:
    """Linear layers, each followed by an activation."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU()]
    return nn.Sequential(*layers)


class StyleEncoder(nn.Module):
    """Maps a portrait to styles, which are relative to the generator's average style."""

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        self.size = size
        width, style, tokens = size.swin.width, size.style, size.tokens
        self.swin_model = SwinV2(size.swin)
        self.mapper_base_spatial = _mlp(tokens, 1)
        self.mapper_base_channel = _mlp(8 * width, style)
        for level, count in zip(LEVELS, size.styles, strict=True):
            self.add_module(f"mapper_query_spatial_{level}", _mlp(tokens, count))
            self.add_module(f"mapper_query_channel_{level}", _mlp(8 * width, style))
            self.add_module(f"cross_att_{level}", CrossAttention(style))
        self.mapper_coarse_channel = _activated(4 * width, style)
        self.mapper_mid_channel = _activated(2 * width, style)
        self.mapper_fine_channel = _activated(width, 2 * width, style)
        self.mapper_coarse_to_mid_spatial = _activated(4 * tokens, 8 * tokens, 16 * tokens)
        self.mapper_mid_to_fine_spatial = _activated(16 * tokens, 32 * tokens, 64 * tokens)

    def forward(self, portrait: Tensor) -> Tensor:
        """Portraits (N, 3, S, S) in [-1, 1], of side `size.side`, to styles (N, W, Z)."""
        taps = self.swin_model(portrait)
        coarse = self.mapper_coarse_channel(taps.coarse)
        mid = self.mapper_mid_channel(taps.mid) + self.mapper_coarse_to_mid_spatial(coarse.mT).mT
        fine = self.mapper_fine_channel(taps.fine) + self.mapper_mid_to_fine_spatial(mid.mT).mT
        base = self.base(taps.base)
        details = [
            self.get_submodule(f"cross_att_{level}")(self.queries(taps.query, level), keys)
            for level, keys in zip(LEVELS, (coarse, mid, fine), strict=True)
        ]
        return base + torch.cat([torch.zeros_like(base), *details], dim=1)

    def base(self, tokens: Tensor) -> Tensor:
        """The style (N, 1, Z) that all layers share, computed from the last tokens (N, T, C)."""
        return _summary(tokens, self.mapper_base_spatial, self.mapper_base_channel)

    def queries(self, tokens: Tensor, level: str) -> Tensor:
        """A level's queries (N, styles of the level, Z), computed from the tokens (N, T, C) after the third
        stage."""
        spatial = self.get_submodule(f"mapper_query_spatial_{level}")
        return _summary(tokens, spatial, self.get_submodule(f"mapper_query_channel_{level}"))


def _summary(tokens: Tensor, spatial: nn.Module, channel: nn.Module) -> Tensor:
    return channel(spatial(tokens.mT).mT + tokens.amax(1, keepdim=True))
