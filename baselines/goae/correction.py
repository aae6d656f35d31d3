"""GOAE's correction of EG3D's features (AFA), and the visibility mask that mixes planes.

Parameters have the names that published checkpoints give them. Shape letters: N portraits, C channels of the
features, H W their side, S side of a portrait.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from baselines.goae.encoder import ATTENTION_HEADS, CrossAttention
from baselines.layers import body, stem
from core.errors import InputError
from generators.gan.layers import activate
from generators.volume import rays

DEPTHS = (3, 3, 3)
KERNEL = 9  # side of the mask's blur kernel, in cells
THRESHOLD = 0.35

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class CorrectionSize:
    """Channels of the three groups of units, and of the features that are corrected."""

    body: tuple[int, ...]
    features: int

    @classmethod
    def read(cls, shapes: Shapes, where: str) -> Self:
        """The sizes of tensors of these names and shapes. Raises InputError, naming `where`, if a tensor
        is missing that they are read from."""
        firsts = [sum(DEPTHS[:group]) for group in range(len(DEPTHS))]
        try:
            widths = tuple(shapes[f"body.{unit}.res_layer.1.weight"][0] for unit in firsts)
            features = shapes["output_layer.2.weight"][0]
        except KeyError as error:
            raise InputError(
                f"{where}: not GOAE's feature correction: it has no tensor {error.args[0]}"
            ) from None
        if features % ATTENTION_HEADS:
            raise InputError(f"{where}: {features} features do not split into {ATTENTION_HEADS} heads")
        return cls(widths, features)


class EqualisedConvolution(nn.Module):
    """A 3x3 convolution whose weight is divided by sqrt(fan-in) in the forward pass."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return F.conv2d(x, self.weight / math.sqrt(self.weight[0].numel()), self.bias, padding=1)


class Activation(nn.Module):
    """StyleGAN2's activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return activate(x)


class FeatureCorrection(nn.Module):
    """AFA: maps the error of the first reconstruction to a scale and a shift of EG3D's features."""

    def __init__(self, size: CorrectionSize) -> None:
        super().__init__()
        self.size = size
        self.input_layer = stem(3, size.body[0])
        self.body = body(size.body, DEPTHS)
        self.output_layer = nn.Sequential(
            EqualisedConvolution(size.body[-1], size.features),
            Activation(),
            EqualisedConvolution(size.features, size.features),
        )
        self.cross_att_gamma = CrossAttention(size.features)
        self.cross_att_beta = CrossAttention(size.features)

    def forward(self, features: Tensor, difference: Tensor) -> Tensor:
        """Features (N, C, H, W), and the reconstruction minus the portrait (N, 3, S, S), to corrected
        features."""
        gamma, beta = self.modulation(features, difference)
        return gamma * features + beta

    def modulation(self, features: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
        """The scale and the shift (N, C, H, W) of `forward`."""
        seen = self.output_layer(self.body(self.input_layer(difference)))
        queries, keys = _tokens(features), _tokens(seen)
        gamma, beta = (read(queries, keys) for read in (self.cross_att_gamma, self.cross_att_beta))
        return gamma.mT.reshape(features.shape), beta.mT.reshape(features.shape)


def _tokens(x: Tensor) -> Tensor:
    """Maps (N, C, H, W) to normalised tokens (N, H*W, C)."""
    return F.layer_norm(x.flatten(2).mT, x.shape[1:2])


def visibility_mask(depth: Tensor, labels: Tensor, side: int, sigma: float) -> Tensor:
    """How well each cell of the front plane (x, y) is seen by a camera: (N, 1, `side`, `side`) in [0, 1].

    Depths (N, 1, s, s) along the rays of EG3D labels (N, 25) mark the cells in which surface points lie; the
    marks are blurred with `sigma` cells, cut at a threshold and blurred again.
    """
    cast = rays(labels, depth.shape[-1])
    points = cast.origins + depth.flatten(1).unsqueeze(-1) * cast.directions
    cells = ((points[..., :2] + 0.5) * side).floor().long().clamp(0, side - 1)
    marks = torch.zeros(len(depth), side * side, device=depth.device, dtype=depth.dtype)
    marks.scatter_(1, cells[..., 1] * side + cells[..., 0], 1.0)
    blurred = gaussian_blur(marks.view(-1, 1, side, side), [KERNEL, KERNEL], [sigma, sigma])
    seen = (blurred > THRESHOLD).to(depth.dtype)
    return gaussian_blur(seen, [KERNEL, KERNEL], [sigma, sigma])
