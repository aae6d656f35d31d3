"""The rasteriser against closed forms and finite differences."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from generators.splats.gaussians import DILATION, Gaussians, project, rotation_matrices
from generators.splats.rasteriser import OPAQUE, rasterise
from portraits import cameras
from portraits.cameras import FOCAL, RADIUS, label_from_angles

SIDE = 32
FRONT = torch.from_numpy(label_from_angles(0.0, 0.0, pivot=(0.0, 0.0, 0.0)))


def gaussian(mean=(0.0, 0.0, 0.0), size=0.1, opacity=0.6, colour=(1.0, 0.5, 0.25)) -> Gaussians:
    return Gaussians(
        torch.tensor([mean], dtype=torch.float64),
        torch.full((1, 3), math.log(size), dtype=torch.float64),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64),
        torch.tensor([math.log(opacity / (1 - opacity))], dtype=torch.float64),
        torch.tensor([colour], dtype=torch.float64),
    )


def many(count: int, dtype: torch.dtype = torch.float64) -> Gaussians:
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(count, 10, generator=draw, dtype=dtype)
    return Gaussians(
        0.15 * normal[:, :3],
        -3.2 + 0.4 * normal[:, 3:6],
        normal[:, 6:10],
        torch.randn(count, generator=draw, dtype=dtype),
        torch.rand(count, 3, generator=draw, dtype=dtype),
    )


def test_means_are_projected_like_points():
    label = label_from_angles(0.4, -0.2)
    gaussians = many(20)
    seen = project(gaussians, torch.from_numpy(label).double(), SIDE)
    expected = cameras.project(gaussians.means.numpy(), label) * SIDE
    np.testing.assert_allclose(seen.centres.numpy(), expected, atol=1e-4)


def test_covariance_of_a_centred_ball():
    seen = project(gaussian(size=0.1), FRONT.double(), SIDE)
    pixels = (0.1 * FOCAL * SIDE / RADIUS) ** 2 + DILATION
    np.testing.assert_allclose(seen.covariances[0].numpy(), pixels * np.eye(2), rtol=1e-5, atol=1e-5)


def test_covariance_matches_projected_samples():
    label = torch.from_numpy(label_from_angles(0.5, 0.2)).double()
    tilted = replace(
        gaussian((0.05, 0.1, 0.1)),
        log_scales=torch.tensor([[0.01, 0.03, 0.02]], dtype=torch.float64).log(),
        rotations=torch.tensor([[0.9, 0.2, -0.3, 0.4]], dtype=torch.float64),
    )
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(200_000, 3, generator=draw, dtype=torch.float64)
    axes = rotation_matrices(tilted.rotations)[0] * tilted.log_scales.exp()
    points = tilted.means + normal @ axes.mT
    sampled = np.cov(cameras.project(points.numpy(), label.numpy()).T * SIDE)
    expected = project(tilted, label, SIDE).covariances[0].numpy() - DILATION * np.eye(2)
    np.testing.assert_allclose(sampled, expected, rtol=0.03, atol=0.01)


def test_rotation_matrix_of_a_quaternion():
    half = math.pi / 6
    turn = rotation_matrices(torch.tensor([[2 * math.cos(half), 0.0, 0.0, 2 * math.sin(half)]]))[0]
    np.testing.assert_allclose(turn @ torch.tensor([1.0, 0.0, 0.0]), [0.5, math.sqrt(0.75), 0.0], atol=1e-6)


def test_single_gaussian_matches_the_closed_form():
    # with an odd side, a pixel is at the centre of the image
    rendered = rasterise(gaussian(opacity=0.6), FRONT.double(), 33)
    middle = 16
    assert rendered.alpha[middle, middle].item() == pytest.approx(0.6, rel=1e-5)
    np.testing.assert_allclose(rendered.image[middle, middle], 0.6 * np.array([1, 0.5, 0.25]), rtol=1e-5)
    variance = (0.1 * FOCAL * 33 / RADIUS) ** 2 + DILATION
    for steps in (1, 4, 8):
        expected = 0.6 * math.exp(-0.5 * steps**2 / variance)
        assert rendered.alpha[middle + steps, middle].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("swapped", [False, True])
def test_gaussians_are_composited_by_depth(swapped: bool):
    near = gaussian((0.0, 0.0, 0.3), opacity=0.7, colour=(1.0, 0.0, 0.0))
    far = gaussian((0.0, 0.0, -0.3), opacity=0.5, colour=(0.0, 1.0, 0.0))
    pair = (far, near) if swapped else (near, far)
    both = Gaussians(*(torch.cat(x) for x in zip(*(p.tensors().values() for p in pair), strict=True)))
    rendered = rasterise(both, FRONT.double(), 33)
    np.testing.assert_allclose(rendered.image[16, 16], [0.7, 0.3 * 0.5, 0.0], rtol=1e-5)
    assert rendered.alpha[16, 16].item() == pytest.approx(1 - 0.3 * 0.5, rel=1e-5)


def test_tiles_do_not_change_the_image():
    gaussians, label = many(60), torch.from_numpy(label_from_angles(0.3, 0.1)).double()
    whole = rasterise(gaussians, label, SIDE, tile=SIDE)
    for tile in (5, 8):
        tiled = rasterise(gaussians, label, SIDE, tile)
        np.testing.assert_allclose(tiled.image, whole.image, atol=1e-12)
        np.testing.assert_allclose(tiled.alpha, whole.alpha, atol=1e-12)


def test_gaussians_behind_the_camera_or_outside_are_not_drawn():
    behind, aside = gaussian((0.0, 0.0, RADIUS + 0.5)), gaussian((3.0, 0.0, 0.0))
    for hidden in (behind, aside):
        assert rasterise(hidden, FRONT.double(), SIDE).alpha.max() == 0


def test_opacity_is_capped():
    solid = gaussian((0.0, 0.0, 0.3), opacity=1 - 1e-9, colour=(0.0, 0.0, 0.0))
    far = gaussian((0.0, 0.0, -0.3), opacity=0.5, colour=(1.0, 1.0, 1.0))
    both = Gaussians(
        *(torch.cat(x) for x in zip(solid.tensors().values(), far.tensors().values(), strict=True))
    )
    image = rasterise(both, FRONT.double(), 33).image
    assert image[16, 16, 0].item() == pytest.approx((1 - OPAQUE) * 0.5, rel=1e-4)


def test_rasterise_passes_gradcheck():
    draw = torch.Generator().manual_seed(1)
    weights = torch.rand(12, 12, 3, generator=draw, dtype=torch.float64)
    label = torch.from_numpy(label_from_angles(0.2, 0.1)).double()
    # so large and opaque that alpha is nowhere below its cut-off
    values = list(
        replace(many(3), log_scales=torch.full((3, 3), -1.2, dtype=torch.float64)).tensors().values()
    )
    values[3] = torch.full((3,), 1.0, dtype=torch.float64)
    values = [value.clone().requires_grad_(True) for value in values]

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        return (rasterise(Gaussians(*parameters), label, 12).image * weights).sum()

    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-6, rtol=1e-4)
