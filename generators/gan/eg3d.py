"""EG3D (Chan et al., CVPR 2022): three feature planes, each indexed by two of a point's coordinates."""

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.gan.generator import Generator

# Coordinates that index each plane. The released weights were trained with (z, x) for the third, not (z, y).
AXES = ((0, 1), (0, 2), (2, 0))


class EG3D(Generator):
    """EG3D's generator."""

    def look_up(self, planes: Tensor, points: Tensor) -> Tensor:
        """See `Generator.look_up`: planes (N, 3, C, H, W), bilinearly, zeros outside."""
        total = torch.zeros((), device=planes.device, dtype=planes.dtype)
        for plane, axes in zip(planes.unbind(1), AXES, strict=True):
            at = points[..., axes].to(plane.dtype)
            total = total + F.grid_sample(plane, at, padding_mode="zeros", align_corners=False)
        return total.movedim(1, -1) / len(AXES)
