"""Fitting of 3D Gaussians to views, and the format of their file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from core.errors import InputError
from generators.isosurface import Surface, extract_surface
from generators.splats.files import PROPERTIES, write_splats
from generators.splats.fit import FitSettings, fit_gaussians, held_out
from generators.splats.rasteriser import rasterise
from generators.splats.start import SPHERE, on_sphere
from portraits.cameras import label_from_angles, project
from tests.generators.test_isosurface import ball

SIDE = 24
LABELS = np.stack([label_from_angles(yaw, 0.1) for yaw in np.linspace(-0.5, 0.5, 4)])


def views_of_a_ball() -> np.ndarray:
    """Views (K, S, S, 3) of a ball, red on the right and green on the left, before a blue wall."""
    centres = (np.arange(SIDE) + 0.5) / SIDE
    images = np.zeros((len(LABELS), SIDE, SIDE, 3), np.uint8)
    images[..., 2] = 200
    x, y = np.meshgrid(centres, centres)
    for image, label in zip(images, LABELS, strict=True):
        middle = project(np.zeros((1, 3)), label)[0]
        inside = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < (0.3 * 4.2647 / 2.7) ** 2
        pole = project(np.array([[0.0, 0.0, 0.3]]), label)[0]
        image[inside & (x > pole[0])] = (220, 30, 30)
        image[inside & (x <= pole[0])] = (30, 220, 30)
    return images


@pytest.fixture(scope="module")
def surface() -> Surface:
    return extract_surface(ball, extent=0.5, level=10.0, resolution=20)


def test_fit_reduces_errors_also_on_a_held_out_view(surface: Surface):
    images = views_of_a_ball()
    seen = np.array([True, True, False, True])
    truths = torch.from_numpy(images).movedim(-1, 1) / 127.5 - 1
    errors = []
    for steps in (0, 25):
        fitted = fit_gaussians(surface, images[seen], LABELS[seen], FitSettings(300, steps))
        errors.append((fitted.render(LABELS, SIDE) - truths).abs().mean((1, 2, 3)))
    assert (errors[1] < 0.8 * errors[0]).all()
    assert errors[1][2] < 0.22
    assert len(fitted.head) == 300


def test_fit_is_deterministic_by_seed(surface: Surface):
    images = views_of_a_ball()
    same = [fit_gaussians(surface, images, LABELS, FitSettings(40, 2, seed)).head.means for seed in (1, 1, 2)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_surroundings_lie_on_the_visible_sphere_without_gaps(surface: Surface):
    images = views_of_a_ball()
    labels = torch.from_numpy(LABELS)
    around = on_sphere(images, labels, surface)
    np.testing.assert_allclose(around.means.norm(dim=1), SPHERE, rtol=1e-5)
    assert around.means[:, 2].max() < 0
    # the colour of the wall, without the ball's
    np.testing.assert_allclose(around.colours, np.tile([0, 0, 200 / 255], (len(around), 1)), atol=1e-6)
    # no gaps, also in a view between the given ones
    for label in (*LABELS, label_from_angles(0.1, 0.0)):
        assert rasterise(around, torch.from_numpy(label), SIDE).alpha.min() > 0.95


def test_cameras_outside_the_surroundings_are_refused(surface: Surface):
    labels = torch.from_numpy(LABELS).clone()
    labels[0, [3, 7, 11]] *= 1.01 * SPHERE / labels[0, [3, 7, 11]].norm()
    with pytest.raises(InputError, match="a camera is 8 units or more from the origin"):
        on_sphere(views_of_a_ball(), labels, surface)


@pytest.mark.parametrize(("views", "expected"), [(4, [3]), (9, [3]), (24, [3, 9, 15, 21])])
def test_every_sixth_view_is_held_out(views: int, expected: list[int]):
    assert np.flatnonzero(held_out(views)).tolist() == expected


def test_too_few_views_and_invalid_settings_are_refused():
    with pytest.raises(InputError, match="3 views are too few for 3D Gaussians: give 4"):
        held_out(3)
    with pytest.raises(InputError, match=r"--gaussians.count 0: give 1"):
        FitSettings(count=0)


def test_splat_file_has_the_standard_properties(surface: Surface, tmp_path: Path):
    gaussians = fit_gaussians(surface, views_of_a_ball(), LABELS, FitSettings(50, 2)).head
    write_splats(gaussians, tmp_path / "head.ply", "millimetres")
    header, body = (tmp_path / "head.ply").read_bytes().split(b"end_header\n")
    assert header.split(b"\n")[:3] == [b"ply", b"format binary_little_endian 1.0", b"element vertex 50"]
    names = [line.split()[-1].decode() for line in header.split(b"\n") if line.startswith(b"property float")]
    assert tuple(names) == PROPERTIES
    table = dict(zip(names, np.frombuffer(body, "<f4").reshape(50, -1).T, strict=True))
    scale = 1000 / 2.7
    half_turn = np.diag([1.0, -1.0, -1.0])  # viewers look along +z with y down
    means = np.stack([table[axis] for axis in "xyz"], 1)
    np.testing.assert_allclose(means, gaussians.means.numpy() @ half_turn * scale, rtol=1e-5)
    np.testing.assert_allclose(
        np.exp(table["scale_1"]), gaussians.log_scales[:, 1].exp().numpy() * scale, rtol=1e-4
    )
    np.testing.assert_allclose(1 / (1 + np.exp(-table["opacity"])), gaussians.opacities.numpy(), rtol=1e-5)
    np.testing.assert_allclose(
        0.5 + 0.28209479177387814 * table["f_dc_2"], gaussians.colours[:, 2].numpy(), atol=1e-5
    )
    written = Rotation.from_quat(np.stack([table[f"rot_{part}"] for part in range(4)], 1), scalar_first=True)
    own = Rotation.from_quat(gaussians.rotations.numpy(), scalar_first=True)
    np.testing.assert_allclose(written.as_matrix(), half_turn @ own.as_matrix(), atol=1e-5)
