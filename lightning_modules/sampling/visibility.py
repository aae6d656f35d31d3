"""Which pixels of a view no portrait shows, by the shape that S sees (Fig. 5).

Shape letters: B people, R portraits of each, K views, s the side of what S renders, P its pixels (s*s).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.volume import rays
from lightning_modules.networks.noise_prior import NoisePrior

THERE = 0.5  # alpha from which a pixel is of the head
BEHIND = 0.05  # in the world's units (a head is about 0.5 wide): more than the depths err, less than a nose


@torch.no_grad()
def hidden(prior: NoisePrior, references: Tensor, seen_by: Tensor, cameras: Tensor) -> Tensor:
    """True where the head seen by EG3D labels `cameras` (B, K, 25) is on none of the portraits `references`
    (B, R, 3, S, S), in [-1, 1], taken by `seen_by` (B, R, 25): (B, K, S, S) bool, and s pixels sharp.

    A point of the head that S finds is on a portrait if it lies within its image, and not behind the depth
    that S finds there. All tensors are on one device.
    """
    canonical = prior.encode(references)
    there, here = prior.proxies(canonical, seen_by), prior.proxies(canonical, cameras)
    side = here.depth.shape[-1]
    cast = rays(cameras.flatten(0, 1).float(), side)
    points = cast.points(here.depth.flatten(0, 1).flatten(1).unsqueeze(-1)).squeeze(2)  # (B·K, P, 3)
    points = points.unflatten(0, cameras.shape[:2])
    shown = torch.zeros_like(points[..., 0], dtype=torch.bool)
    for number in range(references.shape[1]):
        shown |= _visible(points, seen_by[:, number], there.depth[:, number])
    missing = ~shown.unflatten(-1, (side, side)) & (here.alpha > THERE)
    return F.interpolate(missing.float(), size=references.shape[-1]).bool()


def _visible(points: Tensor, labels: Tensor, depth: Tensor) -> Tensor:
    """Which world points (B, K, P, 3) cameras (B, 25) see past depths (B, s, s): (B, K, P) bool."""
    pose, intrinsics = labels[:, :16].unflatten(1, (4, 4)), labels[:, 16:].unflatten(1, (3, 3))
    offsets = points - pose[:, None, None, :3, 3]
    in_image = torch.einsum("bkpi,bij,blj->bkpl", offsets, pose[:, :3, :3], intrinsics)
    place = in_image[..., :2] / in_image[..., 2:].clamp_min(1e-6)  # (0, 0) to (1, 1) within the image
    within = ((place > 0) & (place < 1)).all(-1) & (in_image[..., 2] > 0)
    nearest = F.grid_sample(depth[:, None], place * 2 - 1, padding_mode="border", align_corners=False)[:, 0]
    return within & (offsets.norm(dim=-1) < nearest + BEHIND)
