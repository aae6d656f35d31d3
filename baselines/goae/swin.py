"""Swin Transformer v2 (Liu et al., CVPR 2022) as GOAE's encoder has it, with the outputs that it uses.

Parameters have the names that published checkpoints give them. Shape letters: N portraits, H W tokens of a
map, T = H*W, C channels, A heads, w side of a window, P = w*w.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 4  # side of the square of pixels that becomes a token
WINDOW = 16  # side of an attention window in tokens
PRETRAINED_WINDOWS = (12, 12, 12, 6)  # by stage; the unit of relative offsets for any window
OFFSET_RANGE = 8
HIDDEN = 512  # width of the network that computes position biases
MAX_LOGIT_SCALE = math.log(100)
BIAS_RANGE = 16
MASKED = -100.0
EXPANSION = 4

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class SwinSize:
    """Channels after the patch embedding, which double with each stage, and blocks and heads by stage."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]

    @classmethod
    def read(cls, shapes: Shapes, prefix: str) -> Self:
        """The sizes of tensors of these names and shapes. Raises KeyError with the name of a tensor that is
        missing."""
        depths: list[int] = []
        while f"{prefix}.layers.{len(depths)}.blocks.0.attn.logit_scale" in shapes:
            stage, count = f"{prefix}.layers.{len(depths)}.blocks", 0
            while f"{stage}.{count}.attn.logit_scale" in shapes:
                count += 1
            depths.append(count)
        heads = tuple(
            shapes[f"{prefix}.layers.{stage}.blocks.0.attn.logit_scale"][0] for stage in range(len(depths))
        )
        return cls(shapes[f"{prefix}.patch_embed.proj.weight"][0], tuple(depths), heads)


@dataclass(frozen=True)
class Taps:
    """Tokens (N, T, C) at five places: after the patch embedding (`fine`), after the first three stages with
    their merging (`mid`, `coarse`, `query`), and at the end (`base`)."""

    fine: Tensor
    mid: Tensor
    coarse: Tensor
    query: Tensor
    base: Tensor


class PatchEmbedding(nn.Module):
    """Maps an image to tokens, one for each 4x4 square of pixels, row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 4H, 4W) to (N, H*W, C)."""
        return self.norm(self.proj(image).flatten(2).transpose(1, 2))


class WindowAttention(nn.Module):
    """Scaled cosine attention within a window, with a bias by log-spaced relative position."""

    def __init__(self, width: int, heads: int, pretrained_window: int) -> None:
        super().__init__()
        self.heads, self.pretrained_window = heads, pretrained_window
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, heads, bias=False))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, window: int, mask: Tensor | None) -> Tensor:
        """Attention within each of M windows (N, M, P, C) of an image; the same shape comes back.

        Args:
            x: the windows.
            window: side of a window in tokens.
            mask: added to the attention logits, (M, P, P).
        """
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # (N, M, A, P, C / A)
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * scale + self.position_bias(window)
        if mask is not None:
            logits = logits + mask.unsqueeze(1)
        y = logits.softmax(-1) @ v
        return self.proj(y.transpose(2, 3).flatten(-2))

    def position_bias(self, window: int) -> Tensor:
        """The learned bias (A, P, P) of the attention logit of each pair of tokens in a window."""
        steps = torch.arange(1 - window, window, device=self.qkv.weight.device, dtype=self.qkv.weight.dtype)
        spaced = OFFSET_RANGE * steps / (self.pretrained_window - 1)
        spaced = spaced.sign() * torch.log2(1 + spaced.abs()) / math.log2(OFFSET_RANGE)
        table = self.cpb_mlp(torch.cartesian_prod(spaced, spaced))  # ((2w - 1)², A)
        places = torch.cartesian_prod(*[torch.arange(window, device=steps.device)] * 2)
        row, column = (places[:, None] - places[None] + window - 1).unbind(-1)
        bias = table[row * (2 * window - 1) + column]
        return BIAS_RANGE * torch.sigmoid(bias.permute(2, 0, 1))


class Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, EXPANSION * width)
        self.fc2 = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention within windows, shifted by half a window or not, and an MLP; each normalised before it is
    added."""

    def __init__(self, width: int, heads: int, pretrained_window: int, shifted: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, pretrained_window)
        self.mlp = Mlp(width)
        self.shifted = shifted

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, H, W, C) to the same shape. On maps of at most `WINDOW` tokens a side, the window is the
        whole map and is not shifted."""
        side = x.shape[1]
        window = min(WINDOW, side)
        shift = window // 2 if self.shifted and side > window else 0
        mask = shift_mask(side, window, shift, x) if shift else None
        windows = _windows(x.roll((-shift, -shift), (1, 2)), window)
        attended = _whole(self.attn(windows, window, mask), side, window).roll((shift, shift), (1, 2))
        x = x + self.norm1(attended)
        return x + self.norm2(self.mlp(x))


def shift_mask(side: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Attention mask (M, P, P) for shifted windows, added to the logits: 0, or `MASKED` between tokens that
    share a window only because the shift wraps around the map's edge.

    Args:
        side: side of the map in tokens.
        window: side of a window in tokens.
        shift: how far the map is rolled, in tokens.
        like: gives the mask's dtype and device.
    """
    places = torch.arange(side, device=like.device)
    region = (places >= side - window).long() + (places >= side - shift).long()
    regions = (3 * region[:, None] + region[None]).view(1, side, side, 1)
    parts = _windows(regions, window)[0, :, :, 0]
    apart = parts[:, :, None] != parts[:, None, :]
    return torch.zeros(apart.shape, device=like.device, dtype=like.dtype).masked_fill(apart, MASKED)


def _windows(x: Tensor, window: int) -> Tensor:
    """Maps (N, H, W, C) to windows (N, M, P, C)."""
    n, height, width, channels = x.shape
    x = x.view(n, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(n, -1, window * window, channels)


def _whole(x: Tensor, side: int, window: int) -> Tensor:
    """Windows (N, M, P, C) to maps (N, H, W, C)."""
    count = side // window
    x = x.view(len(x), count, count, window, window, -1)
    return x.transpose(2, 3).reshape(len(x), side, side, -1)


class PatchMerging(nn.Module):
    """Merges each 2x2 square of tokens into one token of twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, H, W, C) to (N, H / 2, W / 2, 2C)."""
        corners = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.norm(self.reduction(torch.cat(corners, dim=-1)))


class Stage(nn.Module):
    """Blocks at one resolution, and the merging after all stages but the last."""

    def __init__(self, width: int, depth: int, heads: int, pretrained_window: int, merging: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, pretrained_window, shifted=number % 2 == 1) for number in range(depth)
        )
        self.downsample = PatchMerging(width) if merging else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, H, W, C) to (N, H / 2, W / 2, 2C), or the same shape after the last stage."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class SwinV2(nn.Module):
    """Swin v2 without a classification head."""

    def __init__(self, size: SwinSize) -> None:
        super().__init__()
        last = len(size.depths) - 1
        self.patch_embed = PatchEmbedding(size.width)
        self.layers = nn.ModuleList(
            Stage(size.width * 2**number, depth, heads, PRETRAINED_WINDOWS[number], number < last)
            for number, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True))
        )
        self.norm = nn.LayerNorm(size.width * 2**last)

    def forward(self, image: Tensor) -> Taps:
        """Images (N, 3, S, S) in [-1, 1] to tokens."""
        tokens = self.patch_embed(image)
        side = image.shape[-1] // PATCH
        taps, x = [tokens], tokens.unflatten(1, (side, side))
        for stage in self.layers:
            x = stage(x)
            taps.append(x.flatten(1, 2))
        fine, mid, coarse, query, last = taps
        return Taps(fine, mid, coarse, query, self.norm(last))
