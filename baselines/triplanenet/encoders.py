"""The two encoders of TriPlaneNet v2.

Parameters have the names that published checkpoints give them. Shape letters: N portraits, C channels, S
side of the portrait and of EG3D's planes, W styles, Z numbers of a style.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.layers import body, outputs_of, stem
from core.errors import InputError
from generators.gan.layers import Dense

COLOURS = 3
RECONSTRUCTION = 9  # channels: the rendering and the differences of the portrait and its mirror image
DEPTHS = (3, 4, 14, 3)  # IR-SE-50
LEVELS = (6, 20, 23)  # units whose outputs form the first encoder's pyramid
SKIPS = (2, 6, 20, 21)  # units whose outputs the second encoder's decoder takes
LAST = 23
COARSE, MIDDLE = 3, 4  # styles that read the coarsest and the middle level; the others read the finest

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Widths:
    """The sizes of both encoders.

    Args:
        body: channels of the first encoder's four groups of units
        second_body: channels of the second encoder's four groups of units
        style: dimension of a style vector
        heads: convolutions of each style's head
        decoder: channels of the second encoder's four double convolutions
        planes: channels of EG3D's planes
        pixel_shuffle: how the second encoder enlarges: pixel shuffle, or the nearest pixel
    """

    body: tuple[int, ...]
    second_body: tuple[int, ...]
    style: int
    heads: tuple[int, ...]
    decoder: tuple[int, ...]
    planes: int
    pixel_shuffle: bool

    @classmethod
    def read(cls, shapes: Shapes, where: str) -> Self:
        """Read the sizes from the tensors' names and shapes; the second encoder's head shows which variant it
        is. Raises InputError, naming `where`, if a tensor is missing that they are read from."""
        try:
            return cls._read(shapes)
        except KeyError as error:
            raise InputError(f"{where}: not TriPlaneNet v2: it has no tensor {error.args[0]}") from None

    @classmethod
    def _read(cls, shapes: Shapes) -> Self:
        heads: list[int] = []
        while f"psp_encoder.styles.{len(heads)}.linear.weight" in shapes:
            head, count = f"psp_encoder.styles.{len(heads)}.convs", 0
            while f"{head}.{2 * count}.weight" in shapes:
                count += 1
            heads.append(count)
        second = "triplanenet_encoder"
        decoder = tuple(shapes[f"{second}.up{n}.conv.double_conv.1.weight"][0] for n in range(1, 5))
        planes = shapes[f"{second}.final_head_two.4.weight"][0]
        enlarged = shapes[f"{second}.final_head_two.0.weight"][1] - planes
        return cls(
            _body(shapes, "psp_encoder"),
            _body(shapes, second),
            shapes["psp_encoder.styles.0.linear.weight"][0],
            tuple(heads),
            decoder,
            planes,
            pixel_shuffle=enlarged != decoder[-1],
        )


def _body(shapes: Shapes, encoder: str) -> tuple[int, ...]:
    """The channels of an encoder's groups of units."""
    firsts = [sum(DEPTHS[:group]) for group in range(len(DEPTHS))]
    return tuple(shapes[f"{encoder}.body.{unit}.res_layer.1.weight"][0] for unit in firsts)


class StyleHead(nn.Module):
    """Maps features (N, C, s, s) to one style (N, Z): convolutions of stride 2 to one pixel, then a layer."""

    def __init__(self, inputs: int, style: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(halvings):
            layers += [nn.Conv2d(style if number else inputs, style, 3, 2, 1), nn.LeakyReLU(0.01)]
        self.convs = nn.Sequential(*layers)
        self.linear = Dense(style, style)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.linear(self.convs(x).mean((2, 3)))


class StyleEncoder(nn.Module):
    """The first encoder (pSp's): maps a portrait to styles for EG3D's synthesis, relative to `latent_avg`."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        channels, style = widths.body, widths.style
        self.input_layer = stem(COLOURS, channels[0])
        self.body = body(channels, DEPTHS)
        self.styles = nn.ModuleList(StyleHead(style, style, halvings) for halvings in widths.heads)
        self.latlayer1 = nn.Conv2d(channels[2], style, 1)
        self.latlayer2 = nn.Conv2d(channels[1], style, 1)

    def forward(self, portrait: Tensor) -> Tensor:
        """Portraits (N, 3, S, S) in [-1, 1] to styles (N, W, Z)."""
        fine, middle, coarse = outputs_of(self.body, self.input_layer(portrait), LEVELS)
        p2 = _enlarged(coarse, middle) + self.latlayer1(middle)
        p1 = _enlarged(p2, fine) + self.latlayer2(fine)
        levels = [coarse] * COARSE + [p2] * MIDDLE + [p1] * (len(self.styles) - COARSE - MIDDLE)
        heads = zip(self.styles, levels, strict=True)
        return torch.stack([head(level) for head, level in heads], dim=1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


class DoubleConvolution(nn.Module):
    """Batch norm, then twice a convolution and PReLU, and PReLU once more."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
            nn.PReLU(outputs),
            nn.PReLU(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return self.double_conv(x)


class Up(nn.Module):
    """One level of the second encoder's decoder."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = DoubleConvolution(inputs, outputs)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """The encoder's features and those of the level before at the same resolution, joined."""
        return self.conv(torch.cat([skip, x], dim=1))


class PlaneEncoder(nn.Module):
    """The second encoder: refines planes from the residuals of the first reconstruction."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        channels, decoder = widths.second_body, widths.decoder
        self.pixel_shuffle = widths.pixel_shuffle
        self.input_layer = stem(RECONSTRUCTION, channels[0])
        self.body = body(channels, DEPTHS)
        share = 4 if self.pixel_shuffle else 1  # channels that become pixels
        inputs = [channels[3], *(width // share for width in decoder)]
        skips = [channels[3], channels[2], channels[1], channels[0], widths.planes]
        joined = [skip + x for skip, x in zip(skips, inputs, strict=True)]
        self.up1, self.up2, self.up3, self.up4 = (
            Up(before, after) for before, after in zip(joined, decoder, strict=False)
        )
        self.final_head_two = nn.Sequential(
            nn.Conv2d(joined[4], widths.planes, 3, 1, 1),
            nn.PReLU(widths.planes),
            nn.Conv2d(widths.planes, widths.planes, 3, 1, 1),
            nn.PReLU(widths.planes),
            nn.Conv2d(widths.planes, widths.planes, 1),
        )

    def forward(self, reconstruction: Tensor, planes: Tensor) -> Tensor:
        """`reconstruction` (N, 9, S, S) and EG3D's planes (N, C, S, S) to planes (N, C, S, S)."""
        finest = self.levels(reconstruction)[-1]
        return planes + self.final_head_two(torch.cat([planes, self._larger(finest)], dim=1))

    def levels(self, reconstruction: Tensor) -> list[Tensor]:
        """The features after each of the four double convolutions."""
        features = self.input_layer(reconstruction)
        c0, c1, c2, c3, x = outputs_of(self.body, features, (*SKIPS, LAST))
        found = [self.up1(c3, x)]
        for up, skip in ((self.up2, c2), (self.up3, c1), (self.up4, c0)):
            found.append(up(skip, self._larger(found[-1])))
        return found

    def _larger(self, x: Tensor) -> Tensor:
        if self.pixel_shuffle:
            return F.pixel_shuffle(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest")


class TriPlaneEncoders(nn.Module):
    """Both encoders and the average style that the first one's styles are relative to."""

    latent_avg: Tensor

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.psp_encoder = StyleEncoder(widths)
        self.triplanenet_encoder = PlaneEncoder(widths)
        self.register_buffer("latent_avg", torch.zeros(widths.style))

    def styles(self, portrait: Tensor) -> Tensor:
        """Portraits (N, 3, S, S) in [-1, 1] to styles (N, W, Z) for EG3D's synthesis."""
        return self.psp_encoder(portrait) + self.latent_avg
