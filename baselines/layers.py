"""The blocks of IR-SE networks (ArcFace's backbone), used in the encoders of TriPlaneNet and GOAE.

Parameters have the names that published checkpoints give them. Shape letters: N images, C channels, H W
pixels.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from core.tensors import load_strict

BATCHES_SEEN = ".num_batches_tracked"  # a batch norm's counter, not used at inference
SQUEEZE = 16  # channels to hidden channels of squeeze-and-excitation


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: channels scaled by a small network of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // SQUEEZE, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Unit(nn.Module):
    """A residual unit: batch norm, convolution, PReLU, convolution with the stride, batch norm,
    squeeze-and-excitation. Where channels stay the shortcut is subsampling, otherwise a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            SqueezeExcite(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        return self.shortcut_layer(x) + self.res_layer(x)


def stem(inputs: int, outputs: int) -> nn.Sequential:
    """The first layers: 3x3 convolution, batch norm, PReLU; the resolution stays."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.PReLU(outputs)
    )


def body(widths: Sequence[int], depths: Sequence[int]) -> nn.Sequential:
    """Units in groups of `depths` units of `widths` channels, the first of each with stride 2, after a stem
    of the first width."""
    units = []
    for (inputs, outputs), depth in zip(pairwise([widths[0], *widths]), depths, strict=True):
        units += [Unit(inputs, outputs, 2), *(Unit(outputs, outputs, 1) for _ in range(depth - 1))]
    return nn.Sequential(*units)


def outputs_of(units: nn.Sequential, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
    """The outputs of a body's units with these numbers."""
    found = {}
    for number, unit in enumerate(units):
        x = unit(x)
        if number in wanted:
            found[number] = x
    return [found[number] for number in wanted]


def load_networks(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put tensors in the place of a module's own, ready for inference. Counters of batches are neither
    required nor refused. Raises InputError, naming `where`, listing missing, unexpected and misshapen
    names."""
    names = [name for name in module.state_dict() if name.endswith(BATCHES_SEEN)]
    counters = {name: torch.zeros((), dtype=torch.long) for name in names}
    kept = {name: x for name, x in tensors.items() if not name.endswith(BATCHES_SEEN)}
    load_strict(module, counters | kept, where)
    module.eval().requires_grad_(False)
