"""References that are not aligned (Table 1b, B.1)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def moved(images: Tensor, shift: float = 0.0, scale: float = 1.0, tilt: float = 0.0) -> Tensor:
    """Images (N, 3, S, S) shifted to the right by a share of the side, scaled about the middle, and tilted
    anticlockwise by degrees; what comes into view repeats the border."""
    cos, sin = math.cos(math.radians(tilt)) / scale, math.sin(math.radians(tilt)) / scale
    # from where in the image each place is taken, in coordinates of [-1, 1]
    sources = torch.tensor([[cos, -sin, -2 * shift * cos], [sin, cos, -2 * shift * sin]]).to(images)
    places = F.affine_grid(sources.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)
