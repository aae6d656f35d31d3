import numpy as np
import pytest

from core.errors import InputError
from portraits.cameras import angles, check_labels, label, label_from_angles, project, split_label


def test_frontal_label_matches_eg3d():
    pose, intrinsics = split_label(label_from_angles(0.0, 0.0))
    np.testing.assert_allclose(
        pose, np.array([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]]), atol=1e-6
    )
    np.testing.assert_allclose(intrinsics[0], (4.2647, 0, 0.5), atol=1e-6)


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (1.2, -0.4), (-0.7, 0.3), (3.0, 0.1)])
def test_angles_invert_labels(yaw, pitch):
    np.testing.assert_allclose(angles(label_from_angles(yaw, pitch)), (yaw, pitch), atol=1e-6)


def test_signs_of_yaw_pitch_and_image_axes():
    """Positive yaw moves the camera to +x, positive pitch up; the frontal camera has +x on its right."""
    right, above = (split_label(label_from_angles(*pair))[0][:3, 3] for pair in ((0.5, 0.0), (0.0, 0.5)))
    assert right[0] > 0
    assert above[1] > 0
    u, v = project([[0.1, 0.1, 0.2]], label_from_angles(0.0, 0.0))[0]
    assert u > 0.5 > v


@pytest.mark.parametrize("roll", [0.0, 0.4])
def test_pivot_projects_to_the_image_centre(roll):
    for yaw, pitch in ((0.0, 0.0), (1.0, 0.3), (-1.3, -0.4)):
        np.testing.assert_allclose(
            project([[0, 0, 0.2]], label_from_angles(yaw, pitch, roll)), [[0.5, 0.5]], atol=1e-6
        )


def test_roll_turns_the_image_anticlockwise():
    straight, rolled = (project([[0.1, 0.0, 0.2]], label_from_angles(0, 0, roll))[0] for roll in (0.0, 0.2))
    assert rolled[1] < straight[1]


@pytest.mark.parametrize(
    "broken",
    [
        np.zeros((2, 16)),
        np.zeros((2, 25)),
        np.full((1, 25), np.nan),
        label(np.diag([1.0, 1.0, -1.0, 1.0]))[None],
        label(np.diag([2.0, 2.0, 2.0, 1.0]))[None],
    ],
    ids=["16 numbers", "zeros", "nan", "a reflection", "a scale"],
)
def test_invalid_labels_are_refused(broken):
    with pytest.raises(InputError, match=r"^cameras\.json: "):
        check_labels(broken, "cameras.json")


def test_valid_labels_are_unchanged():
    labels = np.stack([label_from_angles(0.3, -0.2), label_from_angles(-1.0, 0.1)])
    np.testing.assert_array_equal(check_labels(labels, "x"), labels)
