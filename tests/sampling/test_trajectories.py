import numpy as np
import pytest

from core.errors import InputError
from lightning_modules.sampling.trajectories import TRAJECTORIES, trajectory
from portraits.cameras import angles, check_labels, look_at, split_label


def degrees(labels):
    return np.degrees(angles(labels))


@pytest.mark.parametrize("name", TRAJECTORIES)
@pytest.mark.parametrize("views", [1, 2, 24])
def test_trajectories_are_valid_and_distinct_cameras(name, views):
    labels = check_labels(trajectory(name, views), name)
    assert labels.shape == (views, 25)
    assert len({tuple(label) for label in labels}) == views


def test_orbit_is_closed_centred_and_even():
    turn = degrees(trajectory("orbit", 24, yaw=30, pitch=10))
    np.testing.assert_allclose(np.abs(turn).max(0), (30, 10), atol=1e-4)
    np.testing.assert_allclose(turn.mean(0), 0, atol=1e-4)
    steps = np.linalg.norm(turn - np.roll(turn, 1, axis=0), axis=1)
    assert steps.max() < 30 * 2 * np.pi / 24 * 1.01


def test_sweeps_are_even():
    sideways, upwards = degrees(trajectory("yaw_sweep", 5, yaw=40)), degrees(trajectory("pitch_sweep", 3))
    np.testing.assert_allclose(sideways, [(yaw, 0) for yaw in (-40, -20, 0, 20, 40)], atol=1e-4)
    np.testing.assert_allclose(upwards, [(0, pitch) for pitch in (-20, 0, 20)], atol=1e-4)


def test_spiral_matches_eg3d():
    """EG3D's LookAtPoseSampler with h = π/2 + a sin(φ), v = π/2 - 0.05 + b cos(φ)."""
    a, b, views = 0.4, 0.5, 16
    expected = []
    for k in range(views):
        h = np.pi / 2 + a * np.sin(2 * np.pi * k / views)
        v = np.pi / 2 - 0.05 + b * np.cos(2 * np.pi * k / views)
        phi = np.arccos(1 - 2 * v / np.pi)
        expected.append(
            2.7 * np.array([np.sin(phi) * np.cos(np.pi - h), np.cos(phi), np.sin(phi) * np.sin(np.pi - h)])
        )
    poses = split_label(trajectory("spiral", views))[0]
    np.testing.assert_allclose(poses[:, :3, 3], expected, atol=2e-3)
    np.testing.assert_allclose(poses[3], look_at(poses[3, :3, 3]), atol=1e-5)


def test_spiral_starts_below_and_goes_right():
    below, right, above, left = degrees(trajectory("spiral", 4))
    assert below[1] < -15
    assert above[1] > 15
    assert right[0] == pytest.approx(22.92, abs=0.01) == -left[0]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (("circle", 8), "no such path; choose from orbit"),
        (("orbit", 0), "--views 0: give 1 to 10000"),
        (("orbit", 8, 200.0), "--yaw 200: .* at most 180"),
        (("orbit", 8, None, 90.0), "--pitch 90: .* at most 85"),
        (("orbit", 8, float("nan")), "--yaw nan"),
        (("yaw_sweep", 8, None, 10.0), "--pitch 10: yaw_sweep does not change the pitch"),
        (("pitch_sweep", 8, 10.0), "--yaw 10: pitch_sweep does not change the yaw"),
    ],
)
def test_invalid_trajectories_are_input_errors(settings, line):
    with pytest.raises(InputError, match=line):
        trajectory(*settings)
