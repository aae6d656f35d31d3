"""StyleGAN2's layers (Karras et al. 2020), as in the backbones of EG3D and PanoHead.

Weights are stored at unit variance and scaled in the forward pass. Parameters have the names of published
checkpoints. Shape letters: N images, C channels, H W pixels, Z size of a style vector w.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2
GAIN = math.sqrt(2)
EPSILON = 1e-8
TAPS = 4  # side of the resampling filter


class Dense(nn.Module):
    """A linear layer whose weight is multiplied by `rate` / sqrt(inputs) and its bias by `rate`."""

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        scale = self.rate / math.sqrt(self.weight.shape[1])
        return F.linear(x, self.weight * scale, self.bias * self.rate)


def activate(x: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky ReLU of slope 0.2 times sqrt 2, clamped to ±`clamp`."""
    x = F.leaky_relu(x, SLOPE) * GAIN
    return x if clamp is None else x.clamp(-clamp, clamp)


def unit_moment(x: Tensor) -> Tensor:
    """Vectors (N, C) divided by the root mean square of their features."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + EPSILON)


def binomial_filter() -> Tensor:
    """StyleGAN2's resampling filter: [1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 64, (4, 4)."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return taps.outer(taps) / taps.sum().square()


def smooth(x: Tensor, taps: Tensor) -> Tensor:
    """Images (N, C, H, W) convolved with taps (4, 4) at a gain of 4, with padding 1: (N, C, H - 1, W - 1)."""
    channels = x.shape[1]
    kernel = 4 * taps.flip(0, 1).to(x.dtype).expand(channels, 1, TAPS, TAPS)
    return F.conv2d(x, kernel, padding=1, groups=channels)


def upsample(x: Tensor, taps: Tensor) -> Tensor:
    """Images (N, C, H, W) upsampled by 2: zeros between pixels, then taps (4, 4) at a gain of 4."""
    channels = x.shape[1]
    kernel = 4 * taps.to(x.dtype).expand(channels, 1, TAPS, TAPS)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


def modulated_convolution(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, up: bool) -> Tensor:
    """Convolution of x (N, C, H, W) with a weight (C', C, k, k) whose input channels are scaled by the styles
    (N, C) of each image. `demodulate` normalises output channels to unit gain. With `up` the convolution is
    transposed with stride 2 and returns (N, C', 2H + 1, 2W + 1).

    Activations are scaled instead of weights: the linear map is the same, and a batch shares one convolution.
    """
    scaled = x * styles[:, :, None, None].to(x.dtype)
    if up:
        y = F.conv_transpose2d(scaled, weight.transpose(0, 1), stride=2)
    else:
        y = F.conv2d(scaled, weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return y
    power = F.linear(styles.square(), weight.square().sum((2, 3)))
    return y * torch.rsqrt(power + EPSILON)[:, :, None, None].to(y.dtype)


class StyledConvolution(nn.Module):
    """Modulated 3x3 convolution, constant noise, bias, activation; upsamples by 2 with `up`."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style: int,
        resolution: int,
        up: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.affine = Dense(style, inputs)
        nn.init.ones_(self.affine.bias)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", binomial_filter())
        self.up, self.clamp = up, clamp

    def forward(self, x: Tensor, w: Tensor, noise: bool) -> Tensor:
        """(N, inputs, H, W) and styles w (N, Z) to (N, outputs, H', W'); `noise` adds the constant noise."""
        y = modulated_convolution(x, self.weight, self.affine(w), demodulate=True, up=self.up)
        if self.up:
            y = smooth(y, self.resample_filter)
        if noise:
            y = y + (self.noise_const * self.noise_strength).to(y.dtype)
        return activate(y + self.bias[:, None, None].to(y.dtype), self.clamp)


class ToImage(nn.Module):
    """Modulated 1x1 convolution, without demodulation, to the channels of an image or of feature planes."""

    def __init__(self, inputs: int, outputs: int, style: int, clamp: float | None = None) -> None:
        super().__init__()
        self.affine = Dense(style, inputs)
        nn.init.ones_(self.affine.bias)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(N, inputs, H, W) and styles w (N, Z) to (N, outputs, H, W)."""
        styles = self.affine(w) / math.sqrt(self.weight[0].numel())
        y = modulated_convolution(x, self.weight, styles, demodulate=False, up=False)
        y = y + self.bias[:, None, None].to(y.dtype)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """The convolutions of one resolution, and its contribution to the image ("skip" architecture).

    The first block of a network (`inputs` None) starts from a learned constant and has one convolution.
    """

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int | None,
        outputs: int,
        style: int,
        resolution: int,
        image_channels: int,
        up: bool = True,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        if inputs is None:
            self.const = nn.Parameter(torch.randn(outputs, resolution, resolution))
        else:
            self.conv0 = StyledConvolution(inputs, outputs, style, resolution, up, clamp)
        self.conv1 = StyledConvolution(outputs, outputs, style, resolution, clamp=clamp)
        self.torgb = ToImage(outputs, image_channels, style, clamp)
        self.register_buffer("resample_filter", binomial_filter())
        self.first, self.up = inputs is None, up

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise: bool
    ) -> tuple[Tensor, Tensor]:
        """Features (N, outputs, H', W') and image at this block's resolution, from features (N, inputs, H,
        W), the previous block's image, and styles ws (N, 2 or 3, Z), one for each convolution and one for the
        image."""
        styles = iter(ws.unbind(1))
        if self.first or x is None:
            x = self.const.expand(ws.shape[0], *self.const.shape)
        else:
            x = self.conv0(x, next(styles), noise)
        x = self.conv1(x, next(styles), noise)
        added = self.torgb(x, next(styles))
        if image is None:
            return x, added
        return x, added + (upsample(image, self.resample_filter) if self.up else image)
