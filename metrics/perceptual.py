"""Perceptual metrics: LPIPS and DISTS. N pairs, S image side; a level of features is (N, C_l, H_l, W_l)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image.dists import DISTSNetwork
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from core.errors import InputError
from metrics.base import PairMetric, unit_range, weights_for
from metrics.catalogue import ALEXNET, LITE, VGG16, published
from metrics.perceptual_loss import FeaturePyramid, PerceptualLoss

STABILITY = 1e-6  # DISTS' c1 and c2


class LPIPS(PairMetric):
    """Learned perceptual distance (Zhang et al. 2018); 0 for equal images.

    Args:
        weights: "alexnet" (the standard) or "vgg16", with the published linear heads; or
            "efficientnet-lite0", without learned heads: mean squared distances of unit-length features,
            summed over levels. By default the best available

    Raises InputError if the weights are not available.
    """

    symbol = "LPIPS"
    higher_is_better = False

    def __init__(self, weights: str | None = None, **options: Any) -> None:
        chosen = weights_for(self.symbol, weights)
        super().__init__(chosen, **options)
        self.network = _build(self.symbol, chosen, {ALEXNET: _alex, VGG16: _vgg, LITE: _Pyramid})

    @property
    def least_side(self) -> int:
        """Side of the smallest image that the network's pooling layers accept."""
        return {ALEXNET: 31, VGG16: 16}.get(self.weights or "", 1)

    @torch.no_grad()
    def scores(self, images: Tensor, truth: Tensor) -> Tensor:
        """Distances (N, 1) of images (N, 3, S, S) in [-1, 1] from their truth."""
        if self.weights != LITE:
            return self.network(images.float().clamp(-1, 1), truth.float().clamp(-1, 1)).reshape(-1, 1)
        pairs = zip(self.network(images), self.network(truth), strict=True)
        return torch.stack([_unit_distance(a, b) for a, b in pairs]).sum(0).reshape(-1, 1)


class DISTS(PairMetric):
    """Structure and texture distance (Ding et al. 2020); 0 for equal images.

    As in the authors' code, images are not resized.

    Args:
        weights: "vgg16" (the standard) with the published weighting of channels; or "efficientnet-lite0",
            with equal weights for all levels, and for all channels of a level. By default the best available

    Raises InputError if the weights are not available.
    """

    symbol = "DISTS"
    higher_is_better = False

    def __init__(self, weights: str | None = None, **options: Any) -> None:
        chosen = weights_for(self.symbol, weights)
        super().__init__(chosen, **options)
        self.network = _build(self.symbol, chosen, {VGG16: _dists, LITE: _Pyramid})

    @torch.no_grad()
    def scores(self, images: Tensor, truth: Tensor) -> Tensor:
        """Distances (N, 1) of images (N, 3, S, S) in [-1, 1] from their truth."""
        if self.weights != LITE:
            return self.network(unit_range(images), unit_range(truth)).reshape(-1, 1)
        levels = ([unit_range(x), *self.network(x)] for x in (images, truth))
        similarities = [_statistics(a, b) for a, b in zip(*levels, strict=True)]
        return 1 - torch.stack(similarities).mean(0).reshape(-1, 1)


def _unit_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distances (N,) of features normalised at each pixel."""
    a, b = (F.normalize(x.float(), dim=1, eps=1e-6) for x in (a, b))
    return (a - b).square().sum(1).mean((1, 2))


def _statistics(a: Tensor, b: Tensor) -> Tensor:
    """Similarity (N,) of two levels in texture (means) and structure (covariance), averaged over channels:
    Equations 4 and 5 of DISTS."""
    a, b = a.double().flatten(2), b.double().flatten(2)
    mean_a, mean_b = a.mean(2), b.mean(2)
    texture = (2 * mean_a * mean_b + STABILITY) / (mean_a**2 + mean_b**2 + STABILITY)
    variances = a.var(2, correction=0) + b.var(2, correction=0)
    covariance = (a * b).mean(2) - mean_a * mean_b
    structure = (2 * covariance + STABILITY) / (variances + STABILITY)
    return ((texture + structure) / 2).mean(1).float()


class _Pyramid(nn.Module):
    """EfficientNet-Lite0's levels of images in [-1, 1], always in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid: FeaturePyramid = PerceptualLoss("efficientnet-lite0").pyramid

    def train(self, mode: bool = True) -> "_Pyramid":
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.pyramid(images.float().clamp(-1, 1))


def _build(metric: str, weights: str, builders: dict[str, Callable[[], nn.Module]]) -> nn.Module:
    """The frozen network of a metric. Raises InputError for weights that the metric does not support."""
    if weights not in builders:
        raise InputError(f"{metric} takes the weights {', '.join(builders)}, not {weights!r}")
    return builders[weights]().eval().requires_grad_(False)


def _alex() -> nn.Module:
    return _lpips("alex", ALEXNET)


def _vgg() -> nn.Module:
    return _lpips("vgg", VGG16)


def _lpips(trunk: str, weights: str) -> nn.Module:
    published(weights).tensors()  # verifies the file that torchvision then reads
    return LearnedPerceptualImagePatchSimilarity(net_type=trunk).net


def _dists() -> nn.Module:
    published(VGG16).tensors()  # as above
    return DISTSNetwork()
