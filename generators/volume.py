"""Volume rendering along the rays of EG3D cameras: stratified depths, importance depths, ray marching.

Shared by the 3D GANs that render R(v, z) (3.3) and by the noise prior S (3.4, A.1). A field is a function
from points to features and densities.

Shape letters: N cameras, P rays of a camera, K depths along a ray, C channels of a feature.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.devices import has_float64
from portraits.cameras import LABEL_SIZE

# Maps world points (N, P, K, 3) and the directions (N, P, 3) of their rays to features (N, P, K, C) and raw
# densities (N, P, K).
Field = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Activation = Callable[[Tensor], Tensor]

WEIGHT_FLOOR = 0.01  # added to the weight of every interval before importance sampling
EPSILON = 1e-5
OPACITY_EPSILON = 1e-10


@dataclass(frozen=True)
class Rays:
    """origins (N, P, 3) and unit directions (N, P, 3) in the world."""

    origins: Tensor
    directions: Tensor

    def points(self, depths: Tensor) -> Tensor:
        """The points (N, P, K, 3) at depths (N, P, K)."""
        return self.origins.unsqueeze(2) + depths.unsqueeze(3) * self.directions.unsqueeze(2)


@dataclass(frozen=True)
class Rendered:
    """features (N, P, C), the weighted sum over intervals; depth (N, P) in world units; alpha (N, P), the sum
    of the weights, in [0, 1]."""

    features: Tensor
    depth: Tensor
    alpha: Tensor


@dataclass(frozen=True)
class Marched:
    """The result of `march`: features (N, P, C), depth (N, P), and the weights (N, P, K - 1) of intervals."""

    features: Tensor
    depth: Tensor
    weights: Tensor


@dataclass(frozen=True)
class RaySampling:
    """Numbers of depths of a ray, and limits of memory.

    Args:
        coarse: number of stratified depths
        fine: number of importance depths, drawn by the weights of the coarse ones; 0 for none
        chunk: rays of a camera rendered at a time, 0 for all; does not change the result
        recompute: use activation checkpointing: each chunk is rendered again in the backward pass
    """

    coarse: int
    fine: int
    chunk: int = 0
    recompute: bool = False


def density(raw: Tensor) -> Tensor:
    """EG3D's density of a decoder's output: softplus(raw - 1)."""
    return F.softplus(raw - 1)


def rays(labels: Tensor, resolution: int) -> Rays:
    """The rays (N, resolution², 3) through the pixel centres, in row-major order, of square images at EG3D
    labels (N, 25).

    Raises ValueError for labels of another shape.
    """
    if labels.ndim != 2 or labels.shape[1] != LABEL_SIZE:
        raise ValueError(f"cameras have shape {tuple(labels.shape)}; EG3D labels are (N, {LABEL_SIZE})")
    pose, intrinsics = labels[:, :16].unflatten(1, (4, 4)), labels[:, 16:].unflatten(1, (3, 3))
    centres = (torch.arange(resolution, device=labels.device, dtype=labels.dtype) + 0.5) / resolution
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    (fx, skew, cx), (_, fy, cy) = intrinsics[:, 0].unbind(1), intrinsics[:, 1].unbind(1)
    y = (v.reshape(1, -1) - cy.unsqueeze(1)) / fy.unsqueeze(1)
    x = (u.reshape(1, -1) - cx.unsqueeze(1) - skew.unsqueeze(1) * y) / fx.unsqueeze(1)
    in_camera = torch.stack([x, y, torch.ones_like(x), torch.ones_like(x)], dim=-1)
    origins = pose[:, None, :3, 3]
    # A difference of points instead of a rotated vector, for the same rounding as the public generators.
    directions = F.normalize((pose[:, :3] @ in_camera.mT).mT - origins, dim=-1)
    return Rays(origins.expand_as(directions), directions)


def around_origin(labels: Tensor, extent: float) -> tuple[Tensor, Tensor]:
    """Near and far depths (N, 1, 1) of cameras (N, 25): their distance from the origin ∓ `extent`."""
    radius = labels[:, :16].unflatten(1, (4, 4))[:, :3, 3].norm(dim=1).view(-1, 1, 1)
    return (radius - extent).clamp_min(EPSILON), radius + extent


def stratified(near: float | Tensor, far: float | Tensor, jitter: Tensor) -> Tensor:
    """Depths (N, P, K), evenly spaced from `near` to `far` (broadcast to (N, P, 1)), each shifted by `jitter`
    (N, P, K) in [0, 1) times the spacing."""
    count = jitter.shape[-1]
    spacing = (far - near) / (count - 1)
    if isinstance(spacing, Tensor):
        even = near + spacing * torch.arange(count, device=jitter.device, dtype=jitter.dtype)
    else:
        even = torch.linspace(near, far, count, device=jitter.device, dtype=jitter.dtype)
    return even + jitter * spacing


def march(features: Tensor, raw: Tensor, depths: Tensor, activation: Activation = density) -> Marched:
    """Emission and absorption along rays, at the midpoints of the K - 1 intervals between ascending depths.

    Takes features (N, P, K, C), raw densities (N, P, K) and depths (N, P, K). Features and raw densities are
    averaged between neighbours before `activation`. The depth of a ray without density is its last one.
    """
    lengths = depths.diff(dim=-1)
    optical = activation((raw[..., :-1] + raw[..., 1:]) / 2) * lengths
    # float64, as opacities of a nearly empty ray are close to float32's rounding error of 1, which would
    # amplify differences in the exponential's last bit.
    exact = optical.double() if has_float64(optical.device) else optical
    opacity = 1 - torch.exp(-exact).to(optical.dtype)
    passed = torch.cumprod(1 - opacity[..., :-1] + OPACITY_EPSILON, dim=-1)
    weights = torch.cat([opacity[..., :1], opacity[..., 1:] * passed], dim=-1)
    middles = (depths[..., :-1] + depths[..., 1:]) / 2
    # Σ w (c_k + c_{k+1}) / 2 without materialising the midpoints' features
    shares = (F.pad(weights, (0, 1)) + F.pad(weights, (1, 0))) / 2
    integrated = torch.einsum("npk,npkc->npc", shares, features)
    return Marched(integrated, _mean_depth(weights, middles, depths), weights)


def _mean_depth(weights: Tensor, middles: Tensor, depths: Tensor) -> Tensor:
    """Σ w d / Σ w, clamped to the ray's depths; the last depth where all weights are 0."""
    total = weights.sum(-1)
    met = total > 0
    mean = (weights * middles).sum(-1) / torch.where(met, total, 1)
    last = depths[..., -1]
    return torch.where(met, torch.minimum(torch.maximum(mean, depths[..., 0]), last), last)


@torch.no_grad()
def importance(depths: Tensor, weights: Tensor, quantiles: Tensor) -> Tensor:
    """Importance depths (N, P, Q) at `quantiles` (N, P, Q) in [0, 1] of the distribution that `weights`
    (N, P, K - 1) of the intervals between `depths` (N, P, K) define. No gradient flows through them.

    As in EG3D: weights are smoothed, and their cumulative distribution is inverted over the midpoints of the
    intervals, without the last one.
    """
    smooth = F.avg_pool1d(F.max_pool1d(weights.flatten(0, 1), 2, 1, padding=1), 2, 1)
    mass = smooth[:, 1:-1] + WEIGHT_FLOOR + EPSILON
    cumulative = F.pad(torch.cumsum(mass / mass.sum(-1, keepdim=True), dim=-1), (1, 0))
    bins = ((depths[..., :-1] + depths[..., 1:]) / 2)[..., :-1].flatten(0, 1)
    wanted = quantiles.flatten(0, 1).contiguous()
    above = torch.searchsorted(cumulative, wanted, right=True)
    below = (above - 1).clamp_min(0)
    above = above.clamp_max(cumulative.shape[-1] - 1)
    low, high = cumulative.gather(-1, below), cumulative.gather(-1, above)
    span = torch.where(high - low < EPSILON, 1, high - low)
    start, stop = bins.gather(-1, below), bins.gather(-1, above)
    return (start + (wanted - low) / span * (stop - start)).unflatten(0, depths.shape[:2])


def render(
    field: Field,
    cast: Rays,
    near: float | Tensor,
    far: float | Tensor,
    sampling: RaySampling,
    draw: torch.Generator | Sequence[torch.Generator] | None = None,
    activation: Activation = density,
) -> Rendered:
    """Render a field along rays (N, P) between depths `near` and `far`, numbers or (N, 1, 1).

    With a CPU generator `draw`, depths are jittered within their strata and importance quantiles are random;
    without, they are the strata's middles and evenly spaced quantiles. Several generators draw for equal
    shares of the N rows, in order.
    """
    jitter, quantiles = _draws(cast.directions, sampling, draw)
    size = sampling.chunk or cast.directions.shape[1]
    parts = zip(
        *(x.split(size, dim=1) for x in (cast.origins, cast.directions, jitter, quantiles)), strict=True
    )
    render_chunk = _render_chunk_checkpointed if sampling.recompute else _render_chunk
    pieces = [
        render_chunk(field, Rays(o, d), stratified(near, far, j), q, activation) for o, d, j, q in parts
    ]
    if len(pieces) == 1:
        return pieces[0]
    names = ("features", "depth", "alpha")
    return Rendered(*(torch.cat([getattr(piece, name) for piece in pieces], dim=1) for name in names))


def _draws(
    directions: Tensor, sampling: RaySampling, draw: torch.Generator | Sequence[torch.Generator] | None
) -> tuple[Tensor, Tensor]:
    """Jitter (N, P, coarse) and quantiles (N, P, fine), drawn for all rays at once, independent of chunks."""
    shape = directions.shape[:2]
    if draw is None:
        jitter = torch.full((), 0.5).expand(*shape, sampling.coarse)
        quantiles = torch.linspace(0, 1, sampling.fine).expand(*shape, sampling.fine)
    else:
        draws = [draw] if isinstance(draw, torch.Generator) else draw
        share = (shape[0] // len(draws), shape[1])
        jitter = torch.cat([torch.rand(*share, sampling.coarse, generator=own) for own in draws])
        quantiles = torch.cat([torch.rand(*share, sampling.fine, generator=own) for own in draws])
    return jitter.to(directions), quantiles.to(directions)


def _render_chunk_checkpointed(
    field: Field, cast: Rays, depths: Tensor, quantiles: Tensor, activation: Activation
) -> Rendered:
    return checkpoint(
        _render_chunk,
        field,
        cast,
        depths,
        quantiles,
        activation,
        use_reentrant=False,
        preserve_rng_state=False,
    )


def _render_chunk(
    field: Field, cast: Rays, depths: Tensor, quantiles: Tensor, activation: Activation
) -> Rendered:
    features, raw = field(cast.points(depths), cast.directions)
    marched = march(features, raw, depths, activation)
    if quantiles.shape[-1]:
        fine = importance(depths, marched.weights.float(), quantiles)
        more, more_raw = field(cast.points(fine), cast.directions)
        depths, order = torch.cat([depths, fine], dim=-1).sort(dim=-1)
        raw = torch.cat([raw, more_raw], dim=-1).gather(-1, order)
        features = torch.cat([features, more], dim=-2)
        features = features.gather(-2, order.unsqueeze(-1).expand_as(features))
        marched = march(features, raw, depths, activation)
    return Rendered(marched.features, marched.depth, marched.weights.sum(-1))
