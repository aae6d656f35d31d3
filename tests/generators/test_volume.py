"""Volume rendering: rays, closed forms, gradients, importance sampling."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from generators.volume import (
    RaySampling,
    around_origin,
    importance,
    march,
    rays,
    render,
    stratified,
)
from portraits.cameras import label, label_from_angles, look_at, project


def camera(yaw: float = 0.3, pitch: float = 0.2) -> Tensor:
    return torch.from_numpy(label_from_angles(yaw, pitch)).unsqueeze(0)


def as_is(raw: Tensor) -> Tensor:
    return raw


def ball(radius: float, density: float):
    """A homogeneous ball of one colour around the origin."""

    def field(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        inside = points.norm(dim=-1) < radius
        return torch.full_like(points, 0.7), density * inside.to(points)

    return field


def test_rays_pass_through_their_pixels() -> None:
    intrinsics = np.array([[3.0, 0.2, 0.45], [0.0, 4.0, 0.55], [0.0, 0.0, 1.0]])
    skewed = label(look_at((0.5, 0.7, 2.4), roll=0.3), intrinsics)
    cast = rays(torch.from_numpy(skewed).double().unsqueeze(0), 4)
    seen = project((cast.origins + 2.1 * cast.directions)[0].numpy(), skewed.astype(np.float64))
    centres = (np.arange(4) + 0.5) / 4
    rows, columns = np.meshgrid(centres, centres, indexing="ij")
    assert np.allclose(seen, np.stack([columns.ravel(), rows.ravel()], axis=-1), atol=1e-6)
    assert torch.allclose(cast.directions.norm(dim=-1), torch.ones(1, 16, dtype=torch.float64))


def test_rays_of_invalid_labels_raise() -> None:
    with pytest.raises(ValueError, match="EG3D labels are"):
        rays(torch.zeros(2, 16), 4)


def test_homogeneous_ball_matches_the_closed_form() -> None:
    radius, density = 0.5, 1.7
    labels = camera().double()
    cast = rays(labels, 16)
    rendered = render(
        ball(radius, density), cast, *around_origin(labels, 0.8), RaySampling(512, 512), activation=as_is
    )
    along = -(cast.origins * cast.directions).sum(-1)
    miss = cast.origins.square().sum(-1) - along.square()
    half = (radius**2 - miss).clamp_min(0).sqrt()
    alpha = 1 - torch.exp(-2 * density * half)
    assert (rendered.alpha - alpha).abs().max() < 5e-3
    assert (rendered.features - 0.7 * alpha.unsqueeze(-1)).abs().max() < 5e-3
    hit = half > 0.1
    # the mean of an exponential distribution truncated at the ball's far side
    length = 2 * half[hit]
    depth = (along - half)[hit] + 1 / density - length * torch.exp(-density * length) / alpha[hit]
    assert (rendered.depth[hit] - depth).abs().max() < 5e-3


def test_empty_ray_ends_at_its_last_depth() -> None:
    labels = camera()
    near, far = around_origin(labels, 0.5)
    rendered = render(ball(0.0, 5.0), rays(labels, 4), near, far, RaySampling(9, 0), activation=as_is)
    assert rendered.alpha.abs().max() == 0
    assert rendered.features.abs().max() == 0
    assert torch.allclose(rendered.depth, far[..., 0] + 0.5 * (far - near)[..., 0] / 8)


def test_textured_plane_is_rendered_in_place() -> None:
    def texture(points: Tensor) -> Tensor:
        return torch.stack([torch.sin(6 * points[..., 0]), torch.cos(5 * points[..., 1])], dim=-1)

    def plane(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        return texture(points), 400.0 * (points[..., 2] < 0.1).to(points)

    labels = camera(0.5, -0.3).double()
    cast = rays(labels, 8)
    rendered = render(plane, cast, *around_origin(labels, 0.9), RaySampling(128, 256), activation=as_is)
    depth = (0.1 - cast.origins[..., 2]) / cast.directions[..., 2]
    expected = texture(cast.points(depth.unsqueeze(-1)).squeeze(2))
    assert (rendered.alpha - 1).abs().max() < 1e-4
    assert (rendered.depth - depth).abs().max() < 0.01
    assert (rendered.features - expected).abs().max() < 0.06


def test_march_passes_gradcheck() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(1, 2, 5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    raw = torch.randn(1, 2, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    gaps = torch.rand(1, 2, 5, generator=draw, dtype=torch.float64) + 0.1
    depths = gaps.cumsum(-1).requires_grad_()

    def marched(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result = march(*given)
        return result.features, result.depth, result.weights

    assert torch.autograd.gradcheck(marched, (features, raw, depths))


def test_render_passes_gradcheck() -> None:
    labels = camera().double()
    grid = torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def seen(values: Tensor) -> Tensor:
        def field(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
            at = F.grid_sample(values, 2 * points.flatten(2, 3).view(1, -1, 1, 1, 3), align_corners=False)
            at = at.view(1, 3, *points.shape[1:3]).permute(0, 2, 3, 1)
            return at[..., 1:], at[..., 0]

        return render(field, rays(labels, 2), *around_origin(labels, 0.5), RaySampling(6, 0)).features

    assert torch.autograd.gradcheck(seen, (grid.requires_grad_(),))


def test_importance_depths_follow_the_weights() -> None:
    depths = torch.linspace(2.0, 3.0, 24).expand(2, 3, 24)
    weights = torch.zeros(2, 3, 23)
    weights[..., 12] = 0.9
    quantiles = torch.linspace(0, 1, 33).expand(2, 3, 33)
    chosen = importance(depths, weights, quantiles)
    near = (chosen - depths[..., 12:13]).abs() < 3 / 23
    assert near.float().mean() > 0.8
    assert chosen.min() >= 2.0
    assert chosen.max() <= 3.0
    assert (chosen.diff(dim=-1) >= 0).all()


def test_equal_weights_give_even_depths() -> None:
    depths = torch.linspace(2.0, 3.0, 11, dtype=torch.float64).expand(1, 1, 11)
    weights = torch.full((1, 1, 10), 0.1, dtype=torch.float64)
    quantiles = torch.linspace(0, 1, 9, dtype=torch.float64)
    chosen = importance(depths, weights, quantiles.expand(1, 1, 9))
    assert torch.allclose(chosen[0, 0], torch.linspace(2.05, 2.85, 9, dtype=torch.float64), atol=1e-9)


def test_jitter_stays_within_its_stratum() -> None:
    depths = stratified(2.0, 3.0, torch.rand(2, 5, 11, generator=torch.Generator().manual_seed(2)))
    places = (depths - 2.0) * 10
    assert torch.equal(places.floor().long(), torch.arange(11).expand(2, 5, 11))


@pytest.mark.parametrize("seed", [None, 3])
def test_ray_chunks_change_nothing(seed: int | None) -> None:
    labels = torch.cat([camera(), camera(-0.4, 0.1)])

    def rendered(chunk: int) -> Tensor:
        draw = None if seed is None else torch.Generator().manual_seed(seed)
        sampling = RaySampling(12, 8, chunk)
        result = render(ball(0.5, 9.0), rays(labels, 6), *around_origin(labels, 0.7), sampling, draw, as_is)
        return torch.cat([result.features, result.depth.unsqueeze(-1), result.alpha.unsqueeze(-1)], -1)

    assert torch.equal(rendered(0), rendered(7))


def test_near_and_far_follow_the_cameras_distance() -> None:
    close = torch.from_numpy(label_from_angles(0.1, 0.0, radius=2.0)).unsqueeze(0)
    near, far = around_origin(torch.cat([camera(), close]), 0.5)
    assert torch.allclose(near.flatten(), torch.tensor([2.2, 1.5]), atol=1e-5)
    assert torch.allclose(far.flatten(), torch.tensor([3.2, 2.5]), atol=1e-5)
