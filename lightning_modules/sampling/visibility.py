"""Masks of the parts of the head in a view that no reference shows, by S's geometry (Fig. 5).

Shape letters: B people, R references of each, K views, S image side, s side of S's renderings, P = s*s.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.volume import rays
from lightning_modules.networks.noise_prior import NoisePrior

HEAD_ALPHA = 0.5  # least alpha of a pixel of the head
# world units (a head is about 0.5 wide): above S's depth errors, below a nose's length
DEPTH_TOLERANCE = 0.05


@torch.no_grad()
def occluded(prior: NoisePrior, references: Tensor, reference_cameras: Tensor, cameras: Tensor) -> Tensor:
    """Mask (B, K, S, S), bool, of the head in views at EG3D labels `cameras` (B, K, 25) that is visible in
    none of the `references` (B, R, 3, S, S), in [-1, 1], with labels `reference_cameras` (B, R, 25).

    A surface point is visible in a reference if it projects into the image and is not behind S's depth there.
    The mask's effective resolution is s. All tensors are on the prior's device.
    """
    canonical = prior.encode(references)
    there, here = prior.proxies(canonical, reference_cameras), prior.proxies(canonical, cameras)
    side = here.depth.shape[-1]
    cast = rays(cameras.flatten(0, 1).float(), side)
    points = cast.points(here.depth.flatten(0, 1).flatten(1).unsqueeze(-1)).squeeze(2)  # (B*K, P, 3)
    points = points.unflatten(0, cameras.shape[:2])
    shown = torch.zeros_like(points[..., 0], dtype=torch.bool)
    for number in range(references.shape[1]):
        shown |= _visible(points, reference_cameras[:, number], there.depth[:, number])
    missing = ~shown.unflatten(-1, (side, side)) & (here.alpha > HEAD_ALPHA)
    return F.interpolate(missing.float(), size=references.shape[-1]).bool()


def _visible(points: Tensor, labels: Tensor, depth: Tensor) -> Tensor:
    """Mask (B, K, P), bool, of the world points (B, K, P, 3) visible from cameras (B, 25) with depth maps (B,
    s, s)."""
    pose, intrinsics = labels[:, :16].unflatten(1, (4, 4)), labels[:, 16:].unflatten(1, (3, 3))
    offsets = points - pose[:, None, None, :3, 3]
    in_image = torch.einsum("bkpi,bij,blj->bkpl", offsets, pose[:, :3, :3], intrinsics)
    place = in_image[..., :2] / in_image[..., 2:].clamp_min(1e-6)  # (0, 0) to (1, 1) within the image
    within = ((place > 0) & (place < 1)).all(-1) & (in_image[..., 2] > 0)
    nearest = F.grid_sample(depth[:, None], place * 2 - 1, padding_mode="border", align_corners=False)[:, 0]
    return within & (offsets.norm(dim=-1) < nearest + DEPTH_TOLERANCE)
