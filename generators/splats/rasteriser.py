"""Rendering of 3D Gaussians in plain PyTorch, differentiable in all their parameters; gsplat does the same on
GPUs.

Shape letters: N Gaussians, S image side, T tiles of a bucket, P pixels of a tile, K Gaussians over a tile.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from generators.splats.gaussians import DILATION, Gaussians, Projected, project

TILE = 8  # pixels along the side of a tile
BUCKETS = 8  # tiles with similar numbers of Gaussians are drawn together
FAINT = 1 / 255  # a Gaussian is not drawn where its alpha is below
OPAQUE = 0.999  # the largest alpha


@dataclass(frozen=True)
class Rendered:
    """image (S, S, 3) over black, alpha (S, S) in [0, 1]."""

    image: Tensor
    alpha: Tensor


Rasteriser = Callable[[Gaussians, Tensor, int], Rendered]
"""Renders Gaussians at an EG3D label (25,) into an image, whose side is given in pixels."""


def rasterise(gaussians: Gaussians, label: Tensor, side: int, tile: int = TILE) -> Rendered:
    """The image of Gaussians at an EG3D label (25,), `side` pixels wide.

    At each pixel alpha = opacity · exp(-d' Σ⁻¹ d / 2) with d from the projected mean, and colours are
    composited by depth, the nearest in front. `tile` does not change the result.
    """
    seen = project(gaussians, label, side)
    order = torch.argsort(seen.depths.detach())
    gaussians, seen = (
        gaussians[order],
        Projected(*(getattr(seen, name)[order] for name in seen.__annotations__)),
    )
    inverse = torch.linalg.inv(seen.covariances)
    per_row = -(-side // tile)
    image = gaussians.colours.new_zeros(per_row**2, tile**2, 4)
    parts, places = [], []
    for tiles, chosen, present in _buckets(gaussians, seen, per_row, tile):
        parts.append(_composite(gaussians, seen, inverse, _pixels(tiles, per_row, tile), chosen, present))
        places.append(tiles)
    if parts:
        image = image.index_put((torch.cat(places),), torch.cat(parts))
    grid = image.unflatten(1, (tile, tile)).unflatten(0, (per_row, per_row)).transpose(1, 2)
    image = grid.reshape(per_row * tile, per_row * tile, 4)[:side, :side]
    return Rendered(image[..., :3], image[..., 3])


@torch.no_grad()
def _buckets(
    gaussians: Gaussians, seen: Projected, per_row: int, tile: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tiles (T,), the Gaussians (T, K) that may be drawn in each, by depth, and which of these places are
    taken, (T, K)."""
    reach = torch.sqrt(2 * torch.log((gaussians.opacities / FAINT).clamp_min(1)))
    visible = seen.visible & (reach > 0)
    spans = reach.unsqueeze(1) * seen.covariances.diagonal(dim1=1, dim2=2).sqrt()
    edges = torch.arange(per_row, device=spans.device) * tile
    low, high = (seen.centres - spans).unsqueeze(1), (seen.centres + spans).unsqueeze(1)
    within = (low < edges[:, None] + tile) & (high > edges[:, None])  # (N, tiles of a row, 2)
    over = within[:, :, None, 1] & within[:, None, :, 0] & visible[:, None, None]
    over = over.flatten(1).T  # (tiles, N)
    counts = over.sum(1)
    busy = torch.argsort(counts)[int((counts == 0).sum()) :]
    for tiles in busy.tensor_split(min(BUCKETS, len(busy))) if len(busy) else ():
        most = int(counts[tiles].max())
        # a stable sort puts the tile's own Gaussians first and keeps their order
        chosen = torch.argsort((~over[tiles]).byte(), dim=1, stable=True)[:, :most]
        yield tiles, chosen, torch.arange(most, device=tiles.device) < counts[tiles, None]


def _pixels(tiles: Tensor, per_row: int, tile: int) -> Tensor:
    """The pixels' centres (T, P, 2), x before y, of tiles (T,)."""
    inside = torch.arange(tile, device=tiles.device) + 0.5
    y, x = torch.meshgrid(inside, inside, indexing="ij")
    corners = torch.stack([tiles % per_row, tiles // per_row], -1) * tile
    return corners[:, None] + torch.stack([x, y], -1).view(1, -1, 2)


def _composite(
    gaussians: Gaussians, seen: Projected, inverse: Tensor, pixels: Tensor, chosen: Tensor, present: Tensor
) -> Tensor:
    """Colour and alpha (T, P, 4) at pixels (T, P, 2) of Gaussians (T, K) sorted by depth."""
    centres, conic = seen.centres[chosen].unsqueeze(1), inverse[chosen].unsqueeze(1)
    x, y = (pixels.to(centres).unsqueeze(2) - centres).unbind(-1)
    distance = conic[..., 0, 0] * x * x + 2 * conic[..., 0, 1] * x * y + conic[..., 1, 1] * y * y
    opacity = gaussians.opacities[chosen] * present
    alpha = opacity.unsqueeze(1) * torch.exp(-0.5 * distance)  # (T, P, K)
    alpha = torch.where(alpha < FAINT, 0, alpha.clamp_max(OPAQUE))
    passed = torch.log1p(-alpha).cumsum(-1)  # after each; the logarithm of the transmittance
    weights = alpha * torch.exp(torch.cat([torch.zeros_like(passed[..., :1]), passed[..., :-1]], -1))
    colour = weights @ gaussians.colours[chosen]
    return torch.cat([colour, weights.sum(-1, keepdim=True)], -1)


def gsplat_rasterise(gaussians: Gaussians, label: Tensor, side: int) -> Rendered:
    """As `rasterise`, by gsplat's kernels; takes tensors on a GPU."""
    import gsplat

    pose, intrinsics = (
        label[:16].view(4, 4),
        label[16:].view(3, 3) * label.new_tensor([[side], [side], [1.0]]),
    )
    images, alphas, _ = gsplat.rasterization(
        means=gaussians.means,
        quats=gaussians.rotations,
        scales=gaussians.log_scales.exp(),
        opacities=gaussians.opacities,
        colors=gaussians.colours,
        viewmats=torch.linalg.inv(pose)[None],
        Ks=intrinsics[None],
        width=side,
        height=side,
        eps2d=DILATION,
    )
    return Rendered(images[0], alphas[0, ..., 0])


def rasteriser_for(device: torch.device) -> Rasteriser:
    """gsplat's kernels on a GPU where the package is installed, otherwise plain PyTorch."""
    return gsplat_rasterise if device.type == "cuda" and find_spec("gsplat") else rasterise
