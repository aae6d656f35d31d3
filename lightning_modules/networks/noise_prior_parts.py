"""Modules of S (3.4, A.1): a 2D encoder, the lifting to a 3D volume, surroundings, and a 2D decoder.

Shape letters: B portraits (or rendered views), C channels, S image side, D side of a volume, L its side
before upsampling, K code channels.
"""

from itertools import pairwise

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 8  # channels of a normalisation group
CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


def normalisation(channels: int) -> nn.GroupNorm:
    """Group normalisation over `GROUP` channels, or over all if their number is not a multiple of it."""
    return nn.GroupNorm(channels // GROUP if channels % GROUP == 0 else 1, channels)


class ResidualBlock(nn.Module):
    """Two convolutions in `dims` dimensions and a shortcut, optionally modulated by a code (B, K) in
    between."""

    def __init__(self, dims: int, channels: int, out_channels: int, code_channels: int = 0) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.norm1 = normalisation(channels)
        self.conv1 = convolution(channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(code_channels, 2 * out_channels) if code_channels else None
        self.norm2 = normalisation(out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1)
        same = channels == out_channels
        self.shortcut = nn.Identity() if same else convolution(channels, out_channels, 1)

    def forward(self, hidden: Tensor, code: Tensor | None = None) -> Tensor:
        """(B, channels, …) to (B, out_channels, …)."""
        residual = self.norm2(self.conv1(F.silu(self.norm1(hidden))))
        if self.modulation is not None:
            shape = (*residual.shape[:2], *(1,) * (residual.ndim - 2))
            scale, shift = (x.reshape(shape) for x in self.modulation(code).chunk(2, 1))
            residual = residual * (1 + scale) + shift
        return self.shortcut(hidden) + self.conv2(F.silu(residual))


class PortraitEncoder(nn.Module):
    """Encodes portraits as a pyramid of 2D features, halved at each entry of `channels` after the first, and
    a global code."""

    def __init__(self, image_size: int, channels: tuple[int, ...], code_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1) for narrow, wide in pairwise(channels)
        )
        self.blocks = nn.ModuleList(ResidualBlock(2, wide, wide) for wide in channels[1:])
        last = image_size // 2 ** len(self.down)
        self.code = nn.Sequential(
            normalisation(channels[-1]),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(channels[-1] * last**2, code_channels),
            nn.SiLU(),
        )

    def forward(self, portraits: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """(B, 3, S, S) to features (B, C, side, side) by side, and codes (B, K)."""
        hidden = self.stem(portraits)
        pyramid = {}
        for down, block in zip(self.down, self.blocks, strict=True):
            hidden = block(down(hidden))
            pyramid[hidden.shape[-1]] = hidden
        return pyramid, self.code(hidden)


class Lift(nn.Module):
    """Lifts 2D features (B, C, L, L) to a volume (B, out_channels, L, L, L): each pixel predicts the features
    along its depth."""

    def __init__(self, channels: int, side: int, out_channels: int) -> None:
        super().__init__()
        self.side = side
        self.project = nn.Conv2d(channels, out_channels * side, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, L, L) to (B, out_channels, L, L, L), with depth first, then rows and columns."""
        return self.project(features).unflatten(1, (-1, self.side))


class VoxelAttention(nn.Module):
    """Residual attention of voxels, with learned positional embeddings, to each other or to the pixels of a
    feature map.

    It transforms the portrait's content into the head's frame, as the portrait's camera is not an input.
    """

    def __init__(self, channels: int, side: int, heads: int, pixels: tuple[int, int] | None = None) -> None:
        """`pixels`: channels and side of the feature map, None for the voxels themselves."""
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.places = nn.Parameter(0.02 * torch.randn(1, side**3, channels))
        self.pixel_norm = nn.LayerNorm(pixels[0]) if pixels else None
        self.pixel_places = nn.Parameter(0.02 * torch.randn(1, pixels[1] ** 2, pixels[0])) if pixels else None
        self.attention = Attention(
            query_dim=channels,
            cross_attention_dim=pixels[0] if pixels else None,
            heads=heads,
            dim_head=channels // heads,
        )

    def forward(self, volume: Tensor, features: Tensor | None = None) -> Tensor:
        """(B, C, L, L, L) and, for attention to pixels, features (B, C', L', L') to (B, C, L, L, L)."""
        tokens = self.norm(volume.flatten(2).transpose(1, 2)) + self.places
        seen = None
        if self.pixel_norm is not None:
            assert features is not None
            seen = self.pixel_norm(features.flatten(2).transpose(1, 2)) + self.pixel_places
        mixed = self.attention(tokens, encoder_hidden_states=seen)
        return volume + mixed.transpose(1, 2).unflatten(2, volume.shape[2:])


class Volume(nn.Module):
    """Transforms a portrait's features to a volume in the head's frame: a 3D U-Net with attention and two
    levels, of sides L and L/2."""

    def __init__(
        self, side: int, pixels: tuple[int, int], channels: tuple[int, int], code_channels: int, heads: int
    ) -> None:
        """`pixels` are the widths of the 2D features at `side` and half of it, `channels` those of the
        volume."""
        super().__init__()
        fine, coarse = channels
        self.lift_fine = Lift(pixels[0], side, fine)
        self.lift_coarse = Lift(pixels[1], side // 2, coarse)
        self.enter = ResidualBlock(3, fine, fine, code_channels)
        self.down = nn.Conv3d(fine, coarse, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(3, coarse, coarse, code_channels) for _ in range(2))
        self.attentions = nn.ModuleList(VoxelAttention(coarse, side // 2, heads) for _ in range(2))
        self.up = nn.Conv3d(coarse, fine, 3, padding=1)
        self.look = VoxelAttention(fine, side, heads, (pixels[0], side))
        self.leave = ResidualBlock(3, fine, fine, code_channels)

    def forward(self, fine: Tensor, coarse: Tensor, code: Tensor) -> Tensor:
        """Features (B, C, L, L) and (B, C', L/2, L/2), codes (B, K), to (B, channels[0], L, L, L)."""
        shallow = self.enter(self.lift_fine(fine), code)
        hidden = self.down(shallow) + self.lift_coarse(coarse)
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            hidden = attention(block(hidden, code))
        hidden = shallow + self.up(F.interpolate(hidden, scale_factor=2.0))
        return self.leave(self.look(hidden, fine), code)


class Grow(nn.Module):
    """Upsamples a volume: doubled before each entry of `channels`, then projected to `out_channels`."""

    def __init__(self, in_channels: int, channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(3, wide, narrow) for wide, narrow in pairwise((in_channels, *channels))
        )
        last = (in_channels, *channels)[-1]
        self.leave = nn.Sequential(
            normalisation(last), nn.SiLU(), nn.Conv3d(last, out_channels, 3, padding=1)
        )

    def forward(self, volume: Tensor) -> Tensor:
        """(B, in_channels, L, L, L) to (B, out_channels, D, D, D)."""
        for block in self.blocks:
            volume = block(F.interpolate(volume, scale_factor=2.0))
        return self.leave(volume)


class Surroundings(nn.Module):
    """The background at infinity, by direction: maps codes to latitude-longitude maps.

    The middle column is the viewing direction of a camera in front of the face, with x increasing to the
    right; row 0 is the zenith.
    """

    START = (3, 6)

    def __init__(self, code_channels: int, channels: int, doublings: int, out_channels: int) -> None:
        super().__init__()
        self.start = nn.Linear(code_channels, channels * self.START[0] * self.START[1])
        self.channels = channels
        self.blocks = nn.ModuleList(ResidualBlock(2, channels, channels) for _ in range(doublings))
        self.leave = nn.Conv2d(channels, out_channels, 1)

    def forward(self, code: Tensor) -> Tensor:
        """(B, K) to (B, out_channels, 3 · 2^doublings, twice that)."""
        hidden = self.start(code).unflatten(1, (self.channels, *self.START))
        for block in self.blocks:
            hidden = block(F.interpolate(hidden, scale_factor=2.0))
        return self.leave(F.silu(hidden))


def look_up(maps: Tensor, directions: Tensor) -> Tensor:
    """Sample latitude-longitude maps (B, C, H, W) in unit directions (B, M, 3): (B, M, C)."""
    x, y, z = directions.unbind(-1)
    columns = torch.atan2(x, -z) / torch.pi
    rows = torch.arccos(y.clamp(-1, 1)) / torch.pi * 2 - 1
    width = maps.shape[-1]
    wrapped = F.pad(maps, (1, 1, 0, 0), mode="circular")
    grid = torch.stack([columns * width / (width + 2), rows], dim=-1).unsqueeze(1)
    seen = F.grid_sample(wrapped, grid, padding_mode="border", align_corners=False)
    return seen.squeeze(2).transpose(1, 2)


class ProxyDecoder(nn.Module):
    """Decodes rendered features to RGB, doubled before each entry of `channels` after the first.

    The output is a residual on the first three features, which are an image at the rendering's resolution.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.first = ResidualBlock(2, channels[0], channels[0])
        self.blocks = nn.ModuleList(ResidualBlock(2, wide, narrow) for wide, narrow in pairwise(channels))
        self.leave = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, s, s) to (B, 3, S, S), unbounded."""
        hidden = self.first(self.enter(features))
        for block in self.blocks:
            hidden = block(F.interpolate(hidden, scale_factor=2.0))
        detail = self.leave(F.silu(hidden))
        image = F.interpolate(features[:, :3], size=detail.shape[-2:], mode="bilinear", align_corners=False)
        return image + detail
