"""Pixel metrics: PSNR and SSIM. N pairs, S image side."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio

from metrics.base import PairMetric, unit_range

WINDOW_SIGMA = 1.5  # pixels
WINDOW_REACH = 5
K1, K2 = 0.01, 0.03


class PSNR(PairMetric):
    """Peak signal-to-noise ratio of each image in decibels; infinite for equal images."""

    symbol = "PSNR"
    higher_is_better = True

    def scores(self, images: Tensor, truth: Tensor) -> Tensor:
        """Decibels (N, 1) for images (N, 3, S, S) in [-1, 1]."""
        pair = unit_range(images), unit_range(truth)
        decibels = peak_signal_noise_ratio(*pair, data_range=1.0, reduction="none", dim=(1, 2, 3))
        return decibels.reshape(-1, 1)


class SSIM(PairMetric):
    """Structural similarity (Wang et al. 2004) with 11×11 Gaussian windows of sigma 1.5 that lie inside the
    image, per channel; 1 for equal images.

    It agrees with scikit-image and piq. (torchmetrics 1.9 differs: 0.401 where these give 0.426.)
    """

    symbol = "SSIM"
    higher_is_better = True

    @property
    def least_side(self) -> int:
        """The side of the window."""
        return 2 * WINDOW_REACH + 1

    def scores(self, images: Tensor, truth: Tensor) -> Tensor:
        """Similarity (N, 1) of images (N, 3, S, S) in [-1, 1], S 11 or more."""
        # float64, as variances cancel in float32: equal images would score 0.99999
        a, b = unit_range(images).double(), unit_range(truth).double()
        mean_a, mean_b = _windowed(a), _windowed(b)
        variances = _windowed(a * a) - mean_a**2 + _windowed(b * b) - mean_b**2
        covariance = _windowed(a * b) - mean_a * mean_b
        luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
        structure = (2 * covariance + K2**2) / (variances + K2**2)
        return (luminance * structure).mean((1, 2, 3)).float().reshape(-1, 1)


def _windowed(images: Tensor) -> Tensor:
    """Images (N, 3, S, S) averaged over windows inside them: (N, 3, S - 10, S - 10)."""
    reach = torch.arange(-WINDOW_REACH, WINDOW_REACH + 1, device=images.device, dtype=images.dtype)
    window = torch.exp(-(reach**2) / (2 * WINDOW_SIGMA**2))
    window = (window / window.sum()).view(1, 1, 1, -1)
    planes = images.flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(planes, window), window.mT)[:, 0].unflatten(0, images.shape[:2])
