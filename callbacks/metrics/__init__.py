"""LPIPS, DISTS, SSIM, PSNR, FID, KID, ID and POSE, each a torchmetrics Metric usable on its own, and all at
once. They know torch only: neither the models nor Lightning."""

from callbacks.metrics.identity import ID
from callbacks.metrics.perceptual import DISTS, LPIPS
from callbacks.metrics.pixels import PSNR, SSIM
from callbacks.metrics.pose import POSE, CameraPOSE
from callbacks.metrics.sets import FID, KID
from callbacks.metrics.suite import MetricSuite

__all__ = ["DISTS", "FID", "ID", "KID", "LPIPS", "POSE", "PSNR", "SSIM", "CameraPOSE", "MetricSuite"]
