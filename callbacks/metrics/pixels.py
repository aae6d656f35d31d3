"""Metrics of pixels: PSNR and SSIM. N pairs, S image side."""

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from callbacks.metrics.base import PairMetric, unit_range


class PSNR(PairMetric):
    """Peak signal-to-noise ratio in decibels, of each image by itself; infinite where images are equal."""

    symbol = "PSNR"
    higher_is_better = True

    def scores(self, images: Tensor, truth: Tensor) -> Tensor:
        """Decibels (N, 1) for images (N, 3, S, S) in [-1, 1]."""
        pair = unit_range(images), unit_range(truth)
        decibels = peak_signal_noise_ratio(*pair, data_range=1.0, reduction="none", dim=(1, 2, 3))
        return decibels.reshape(-1, 1)


class SSIM(PairMetric):
    """Structural similarity (Wang et al. 2004): 11×11 Gaussian windows of sigma 1.5; 1 where images are
    equal."""

    symbol = "SSIM"
    higher_is_better = True

    def scores(self, images: Tensor, truth: Tensor) -> Tensor:
        """Similarity (N, 1) of images (N, 3, S, S) in [-1, 1]."""
        # in float32 the variances cancel: equal images would come out at 0.99999
        pair = unit_range(images).double(), unit_range(truth).double()
        similarity = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none")
        return similarity.reshape(-1, 1)
