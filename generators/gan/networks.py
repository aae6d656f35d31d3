"""The networks of EG3D and PanoHead: mapping, synthesis, decoder, super-resolution.

Shape letters: N identities or images, W styles of an identity, Z size of a style, S image side.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.gan.layers import Block, Dense, activate, unit_moment

MAPPING_RATE = 0.01


class MappingNetwork(nn.Module):
    """Maps a latent z and a conditioning vector to a style w, repeated to (N, `copies`, Z)."""

    w_avg: Tensor

    def __init__(
        self,
        latent: int,
        condition: int,
        widths: tuple[int, ...],
        copies: int,
        rate: float = MAPPING_RATE,
        linear_end: bool = False,
    ) -> None:
        super().__init__()
        style = widths[-1]
        self.embed = Dense(condition, style) if condition else None
        before = [latent + (style if condition else 0), *widths[:-1]]
        for index, (inputs, outputs) in enumerate(zip(before, widths, strict=True)):
            self.add_module(f"fc{index}", Dense(inputs, outputs, rate))
        self.register_buffer("w_avg", torch.zeros(style))
        self.depth, self.copies, self.linear_end = len(widths), copies, linear_end

    def forward(
        self, z: Tensor, condition: Tensor, truncation: float = 1.0, cutoff: int | None = None
    ) -> Tensor:
        """Styles (N, copies, Z) of z (N, latent) and condition (N, condition). `truncation` interpolates
        between the average style (0) and the latent's own (1); with `cutoff`, only for the first `cutoff`
        styles."""
        x = unit_moment(z)
        if self.embed is not None:
            x = torch.cat([x, unit_moment(self.embed(condition))], dim=1)
        for index in range(self.depth):
            x = self.get_submodule(f"fc{index}")(x)
            x = x if self.linear_end and index == self.depth - 1 else activate(x)
        ws = x.unsqueeze(1).repeat(1, self.copies, 1)
        if truncation == 1:
            return ws
        truncated = self.w_avg.lerp(ws, truncation)
        return torch.cat([truncated[:, :cutoff], ws[:, cutoff:]], dim=1) if cutoff is not None else truncated


class SynthesisNetwork(nn.Module):
    """Maps styles to a multi-channel image, block by block from 4x4 up."""

    def __init__(
        self, channels: Mapping[int, int], image_channels: int, style: int, clamps: Mapping[int, float]
    ) -> None:
        """`channels` and `clamps` by resolution, of blocks in ascending order."""
        super().__init__()
        self.resolutions = sorted(channels)
        inputs: int | None = None
        for resolution in self.resolutions:
            block = Block(
                inputs, channels[resolution], style, resolution, image_channels, clamp=clamps.get(resolution)
            )
            self.add_module(f"b{resolution}", block)
            inputs = channels[resolution]

    @property
    def styles(self) -> int:
        """The number of styles: one for each convolution, and one for the last block's image."""
        return 2 * len(self.resolutions)

    def forward(self, ws: Tensor, noise: bool = True) -> Tensor:
        """Image (N, image channels, S, S) of the first `styles` of ws (N, W, Z). A block's image layer and
        the next block's first convolution share a style."""
        return self.blocks(ws, noise=noise)[1]

    def blocks(
        self,
        ws: Tensor,
        x: Tensor | None = None,
        image: Tensor | None = None,
        resolutions: Sequence[int] | None = None,
        noise: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Features (N, C, S, S) and image (N, image channels, S, S) after the blocks of the given
        resolutions, by default all. Without the first block, the features `x` and the image of the preceding
        block are needed. Each block uses its own of the styles ws (N, W, Z)."""
        for resolution in self.resolutions if resolutions is None else resolutions:
            block = self.get_submodule(f"b{resolution}")
            number = self.resolutions.index(resolution)
            first, convolutions = max(2 * number - 1, 0), 2 if number else 1
            x, image = block(x, image, ws[:, first : first + convolutions + 1], noise)
        assert x is not None
        assert image is not None
        return x, image


class Backbone(nn.Module):
    """StyleGAN2's generator: mapping and synthesis."""

    def __init__(self, mapping: MappingNetwork, synthesis: SynthesisNetwork) -> None:
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis


class Decoder(nn.Module):
    """Maps features of a point to density and colour features: two layers with a softplus between."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rate: float, activation: str) -> None:
        """`outputs` colour features. `activation` of them: "sigmoid" (EG3D), "lrelu" or "none" (PanoHead)."""
        super().__init__()
        self.net = nn.Sequential(Dense(inputs, hidden, rate), nn.Softplus(), Dense(hidden, 1 + outputs, rate))
        self.activation = activation

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(..., inputs) to colour features (..., outputs) and raw densities (...)."""
        decoded = self.net(features)
        colours = decoded[..., 1:]
        if self.activation == "sigmoid":
            colours = widen(torch.sigmoid(colours))
        elif self.activation == "lrelu":
            colours = activate(colours)
        return colours, decoded[..., 0]


def widen(x: Tensor) -> Tensor:
    """Values in [0, 1] stretched to [-0.001, 1.001], as in mip-NeRF, so that a sigmoid can reach 0 and 1."""
    return x * 1.002 - 0.001


class SuperResolution(nn.Module):
    """Maps rendered features and the raw image to the final image, by two blocks with the last style."""

    def __init__(self, block0: Block, block1: Block, side: int, antialias: bool, only_enlarge: bool) -> None:
        """Renderings are resized to `side`, the blocks' input side; with `only_enlarge`, only smaller
        ones."""
        super().__init__()
        self.block0, self.block1 = block0, block1
        self.side, self.antialias, self.only_enlarge = side, antialias, only_enlarge

    def forward(self, image: Tensor, features: Tensor, w: Tensor, noise: bool) -> Tensor:
        """Image (N, 3, S, S) of the raw image (N, 3, s, s), features (N, C, s, s) and style w (N, Z)."""
        rendered = features.shape[-1]
        if rendered < self.side or (rendered > self.side and not self.only_enlarge):
            image, features = self._resized(image), self._resized(features)
        ws = w.unsqueeze(1).expand(-1, 3, -1)
        features, image = self.block0(features, image, ws, noise)
        return self.block1(features, image, ws, noise)[1]

    def _resized(self, x: Tensor) -> Tensor:
        return resized(x, self.side, self.antialias)


def resized(x: Tensor, side: int, antialias: bool) -> Tensor:
    """Images (N, C, s, s) resized bilinearly to (N, C, side, side)."""
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=antialias)
