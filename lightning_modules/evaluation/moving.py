"""Moved references, for the ablation of alignment (Table 1b, B.1)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def moved(images: Tensor, shift: float = 0.0, scale: float = 1.0, tilt: float = 0.0) -> Tensor:
    """Shift images (N, 3, S, S) to the right by a fraction of the side, scale them about the centre, and
    rotate them anticlockwise by degrees. Regions outside the image repeat its border."""
    cos, sin = math.cos(math.radians(tilt)) / scale, math.sin(math.radians(tilt)) / scale
    # from coordinates of the result to coordinates of the image, both in [-1, 1]
    sources = torch.tensor([[cos, -sin, -2 * shift * cos], [sin, cos, -2 * shift * sin]]).to(images)
    places = F.affine_grid(sources.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)
