"""LPIPS, DISTS, SSIM, PSNR, FID, KID, ID and POSE as torchmetrics metrics, usable separately or all at once.
They depend neither on the models nor on Lightning."""

from metrics.identity import ID
from metrics.perceptual import DISTS, LPIPS
from metrics.pixels import PSNR, SSIM
from metrics.pose import POSE, CameraPOSE
from metrics.sets import FID, KID
from metrics.suite import MetricSuite

__all__ = ["DISTS", "FID", "ID", "KID", "LPIPS", "POSE", "PSNR", "SSIM", "CameraPOSE", "MetricSuite"]
