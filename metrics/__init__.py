"""LPIPS, DISTS, SSIM, PSNR, FID, KID, ID and POSE, each a torchmetrics Metric usable on its own, and all at
once. They know torch only: neither the models nor Lightning."""

from metrics.identity import ID
from metrics.perceptual import DISTS, LPIPS
from metrics.pixels import PSNR, SSIM
from metrics.pose import POSE, CameraPOSE
from metrics.sets import FID, KID
from metrics.suite import MetricSuite

__all__ = ["DISTS", "FID", "ID", "KID", "LPIPS", "POSE", "PSNR", "SSIM", "CameraPOSE", "MetricSuite"]
