"""Distances between two sets of images: FID and KID. N images of a set, D features."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from core.errors import InputError
from metrics.base import weights_for
from metrics.catalogue import metric_name
from metrics.features import extractor

ENOUGH_FOR_FID = 2048
KERNEL_DEGREE = 3


class SetMetric(Metric):
    """Base class of distances between the features of generated and real images.

    States, gathered over processes: `generated` and `real`, lists of features (N, D) float32.

    Args:
        weights: names of the network's weights; by default the best available
        network: the feature network, which may be shared between metrics; by default `extractor(weights)`
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    symbol: ClassVar[str]
    least: ClassVar[int] = 2  # images of each kind needed for a result
    generated: list[Tensor]
    real: list[Tensor]

    def __init__(self, weights: str | None = None, network: nn.Module | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.weights = weights_for(self.symbol, weights)
        self.network = extractor(self.weights) if network is None else network
        self.add_state("generated", [], dist_reduce_fx="cat")
        self.add_state("real", [], dist_reduce_fx="cat")

    @property
    def label(self) -> str:
        """The metric's name, followed by that of its weights unless they are the standard ones."""
        return metric_name(self.symbol, self.weights)

    @property
    def seen(self) -> tuple[int, int]:
        """Numbers of generated and of real images that this process has added."""
        return sum(map(len, self.generated)), sum(map(len, self.real))

    def update(self, images: Tensor, real: bool, *, features: Tensor | None = None) -> None:
        """Add images (N, 3, S, S) in [-1, 1], real or generated, with their `features` (N, D) if already
        computed."""
        features = self.network(images) if features is None else features
        (self.real if real else self.generated).append(features.float())

    def compute(self) -> Tensor:
        """The scalar distance. Raises InputError unless each set has at least two images."""
        if not len(self.generated) or not len(self.real):  # lists, or tensors once gathered
            raise InputError(f"{self.label} compares two sets of images: one of them is empty")
        generated, real = dim_zero_cat(self.generated), dim_zero_cat(self.real)
        fewest = min(len(generated), len(real))
        if fewest < self.least:
            raise InputError(f"{self.label} needs at least two images in each set; one has {fewest}")
        return self.distance(generated.double(), real.double())

    def results(self) -> dict[str, float]:
        """The distance by the metric's label."""
        return {self.label: float(self.compute())}

    @abstractmethod
    def distance(self, generated: Tensor, real: Tensor) -> Tensor:
        """The distance between two sets of features (N, D) float64."""


class FID(SetMetric):
    """Fréchet Inception distance (Heusel et al. 2017); 0 for equal sets.

    It is biased upwards for small sets: compare it only between sets of equal size, or use KID.
    """

    symbol = "FID"

    def note(self, images: int) -> str | None:
        """A remark on the bias of an FID over this number of images; None if there are enough."""
        if images >= ENOUGH_FOR_FID:
            return None
        return (
            f"{self.label} over {images} images is biased upwards ({ENOUGH_FOR_FID} or more are needed):"
            " compare it between equal numbers of images only, or use KID"
        )

    def distance(self, generated: Tensor, real: Tensor) -> Tensor:
        """The Fréchet distance of Gaussians fitted to the features."""
        return frechet_distance(generated, real)


class KID(SetMetric):
    """Kernel Inception distance (Bińkowski et al. 2018): the unbiased squared MMD with the kernel (x·y / D +
    1)³ over whole sets; about 0, possibly negative, for sets of the same distribution."""

    symbol = "KID"

    def distance(self, generated: Tensor, real: Tensor) -> Tensor:
        """The squared MMD."""
        return kernel_distance(generated, real)


def frechet_distance(first: Tensor, second: Tensor) -> Tensor:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½) of features (N, D) and (M, D).

    With X the centred features over √(N-1), Σ = XᵀX, and the last trace is the sum of the singular values of
    X₁X₂ᵀ. This is exact also for fewer images than features; for more, X is replaced by its triangular
    factor.
    """
    means = first.mean(0), second.mean(0)
    factors = [_factor(x - mean) for x, mean in zip((first, second), means, strict=True)]
    common = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    spread = sum(factor.square().sum() for factor in factors)
    return (means[0] - means[1]).square().sum() + spread - 2 * common


def _factor(centred: Tensor) -> Tensor:
    """A matrix F of at most D rows such that FᵀF is the covariance of centred features (N, D)."""
    scaled = centred / (len(centred) - 1) ** 0.5
    return torch.linalg.qr(scaled, mode="r").R if len(scaled) > scaled.shape[1] else scaled


def kernel_distance(first: Tensor, second: Tensor) -> Tensor:
    """The unbiased squared maximum mean discrepancy of features (N, D) and (M, D)."""
    within = [_off_diagonal_mean(_kernel(x, x)) for x in (first, second)]
    return within[0] + within[1] - 2 * _kernel(first, second).mean()


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** KERNEL_DEGREE


def _off_diagonal_mean(square: Tensor) -> Tensor:
    count = len(square)
    return (square.sum() - square.diagonal().sum()) / (count * (count - 1))
