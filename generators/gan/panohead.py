"""PanoHead (An et al., CVPR 2023): EG3D with tri-grids instead of planes, so that front and back of a head
are represented separately, and with a background network."""

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.gan.generator import Generator

# The order of a point's coordinates along width, height and depth of each grid.
AXES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
EMPTY = -1000.0


class PanoHead(Generator):
    """PanoHead's generator."""

    def look_up(self, planes: Tensor, points: Tensor) -> Tensor:
        """See `Generator.look_up`: planes (N, 3, C · D, H, W) as grids of depth D, trilinearly, zeros
        outside."""
        depth = self.architecture.depth
        total = torch.zeros((), device=planes.device, dtype=planes.dtype)
        for plane, axes in zip(planes.unbind(1), AXES, strict=True):
            grid = plane.unflatten(1, (plane.shape[1] // depth, depth))
            at = points[..., axes].unsqueeze(1).to(plane.dtype)
            total = total + F.grid_sample(grid, at, padding_mode="zeros", align_corners=False).squeeze(2)
        return total.movedim(1, -1) / len(AXES)

    def field(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `Generator.field`. Space near and beyond the left, right, front and back faces of the cube is
        empty."""
        features, raw = super().field(planes, points)
        if not self.settings.crop:
            return features, raw
        limit = self.settings.box / 2 - self.settings.crop
        outside = (points[..., (0, 2)].abs() > limit).any(-1)
        return features, raw.masked_fill(outside, EMPTY)
