"""Surface distances of spheres, and of a built-in person's head."""

import numpy as np
import pytest

from benchmarks.mesh import (
    MeshBenchmark,
    Truth,
    distances,
    head_height,
    inside,
    measure,
    table,
    visible_points,
)
from core.errors import InputError
from generators.parametric.person import sample_person


def sphere(radius: float, count: int = 20_000) -> np.ndarray:
    normal = np.random.default_rng(0).standard_normal((count, 3))
    return radius * normal / np.linalg.norm(normal, axis=1, keepdims=True)


def test_distances_of_concentric_spheres_are_their_gap():
    found = distances(sphere(0.33, 500), sphere(0.3), height=0.6)
    assert found.median == pytest.approx(5.0, rel=0.05)
    assert found.ninetieth == pytest.approx(5.0, rel=0.1)
    assert distances(sphere(0.3), sphere(0.3), 0.6) == (0, 0)


def test_points_outside_the_cube_are_dropped():
    points = np.array([[0.1, 0.1, 0.1], [0.1, -0.5, 0.1]])
    assert inside(points, 0.45).tolist() == [[0.1, 0.1, 0.1]]


def test_head_heights_are_plausible():
    heights = [head_height(sample_person(np.random.default_rng(seed))) / 2.7 for seed in range(3)]
    assert all(0.19 < height < 0.28 for height in heights)  # metres, at 2.7 units to the metre
    assert len(set(heights)) == 3


def test_table_has_means_and_ranges():
    rows = {"S to truth": [(2.0, 6.0), (4.0, 8.0)]}
    truths = [Truth(None, np.zeros((1, 3)), height) for height in (0.5, 0.7)]
    text = table(rows, truths)
    assert "| S to truth | 3.0 | 2.0-4.0 | 7.0 |" in text
    assert "2 people; a head is 0.60" in text


def test_visible_points_lie_on_the_surface():
    import mitsuba as mi

    class Ball:
        scene = mi.load_dict({"type": "scene", "ball": {"type": "sphere", "radius": 0.3}})

    points = visible_points(Ball())
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 0.3, atol=1e-4)
    assert len(points) > 50_000
    assert (np.abs(points).max(0) > 0.29).all()


def test_invalid_settings_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="give 2 people or more"):
        MeshBenchmark(people=1)
    with pytest.raises(InputError, match=str(tmp_path)):
        measure(MeshBenchmark(str(tmp_path)))
