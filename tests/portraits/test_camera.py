"""Cameras from exact landmarks, and crops by EG3D's constants: no detector, no renderer."""

import numpy as np
import pytest

from portraits.alignment.camera import camera_from_landmarks, see_through
from portraits.alignment.crop import Square, square_around
from portraits.alignment.head import HeadFrame, NoHeadError, locate_head
from portraits.alignment.virtual import virtual_view
from portraits.cameras import INTRINSICS, angles, label_from_angles, project, split_label
from portraits.geometry import STANDARD_LANDMARKS, reproject, triangulate

TURNS = [(0, 0, 0), (25, -10, 0), (-40, 15, 12), (60, 5, -20), (-70, -20, 5)]


@pytest.mark.parametrize("turn", TURNS)
def test_exact_landmarks_give_the_exact_camera(turn: tuple[float, float, float]):
    camera = label_from_angles(*np.radians(turn))
    found = camera_from_landmarks(project(STANDARD_LANDMARKS, camera))
    np.testing.assert_allclose(found, camera, atol=0.03)
    assert np.degrees(np.abs(angles(found) - angles(camera))).max() < 1


def test_camera_is_robust_to_landmark_noise():
    rng = np.random.default_rng(0)
    camera = label_from_angles(0.4, 0.1)
    seen = project(STANDARD_LANDMARKS, camera)
    errors = [
        np.degrees(angles(camera_from_landmarks(seen + rng.normal(0, 0.005, seen.shape))) - angles(camera))
        for _ in range(30)
    ]
    assert np.abs(errors).mean() < 4
    assert np.linalg.norm(camera_from_landmarks(seen * 1.1)[[3, 7, 11]]) == pytest.approx(2.7, abs=1e-3)


def test_crop_of_a_frontal_eg3d_image_is_the_whole_image():
    """EG3D crops first and then moves the camera to the sphere of radius 2.7, hence the other radius."""
    side = 512
    landmarks = project(STANDARD_LANDMARKS, label_from_angles(0.0, 0.0, radius=2.7 + 0.161)) * side
    square = square_around(landmarks, side)
    np.testing.assert_allclose([square.left, square.top], 0, atol=0.03 * side)
    assert square.side == pytest.approx(side, rel=0.03)


def test_crop_follows_shift_and_scale():
    landmarks = project(STANDARD_LANDMARKS, label_from_angles(0.3, 0.1, 0.2)) * 300 + (80, 40)
    first = square_around(landmarks, 480)
    moved = square_around(landmarks * 2 + (10, -30), 2 * 480)
    # EG3D flips y about the last row, so a scaled photo's crop is off by half a pixel of the smaller one
    expected = (2 * first.left + 10, 2 * first.top - 30, 2 * first.side)
    np.testing.assert_allclose((moved.left, moved.top, moved.side), expected, atol=1.01)


def test_see_through_converts_cameras_between_crops():
    crop, window = Square(120.0, 60.0, 200.0), Square(0.0, 0.0, 400.0)
    camera = label_from_angles(-0.5, 0.2)
    pixels = project(STANDARD_LANDMARKS, camera) * crop.side + (crop.left, crop.top)
    seen = project(STANDARD_LANDMARKS, see_through(camera, crop, window))
    np.testing.assert_allclose(seen, window.normalised(pixels), atol=1e-5)


def cameras_around_head(yaws: list[float]) -> tuple[HeadFrame, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A rotated head, with the poses and projection matrices of cameras around it at `yaws` radians."""
    rotation, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((3, 3)))
    head = HeadFrame(2.7, rotation * np.sign(np.linalg.det(rotation)), np.array([0.3, -0.2, 0.5]))
    pixels = np.array([[900.0, 0.0, 240.0], [0.0, 900.0, 240.0], [0.0, 0.0, 1.0]])
    poses, projections = {}, {}
    for index, yaw in enumerate(yaws):
        seen = split_label(label_from_angles(yaw, 0.1, 0.3).astype(np.float64))[0]
        pose = np.eye(4)
        pose[:3, :3] = head.rotation.T @ seen[:3, :3]
        pose[:3, 3] = head.world(seen[None, :3, 3])[0]
        poses[str(index)] = pose
        projections[str(index)] = pixels @ np.linalg.inv(pose)[:3]
    return head, poses, projections


def landmarks_in(projections: dict[str, np.ndarray], head: HeadFrame) -> dict[str, np.ndarray]:
    """The head's landmarks in pixels of each camera."""
    points = head.world(STANDARD_LANDMARKS)
    return {name: np.concatenate([reproject(p[None], x) for x in points]) for name, p in projections.items()}


def test_locate_head_ignores_an_outlier_view():
    head, _, projections = cameras_around_head([-0.9, -0.4, 0.0, 0.3, 0.8])
    landmarks = landmarks_in(projections, head)
    landmarks["3"] = landmarks["3"][::-1]
    found = locate_head(projections, landmarks)
    assert found.views == 4
    np.testing.assert_allclose(found.rotation, head.rotation, atol=1e-6)
    np.testing.assert_allclose(found.translation, head.translation, atol=1e-6)
    assert found.scale == pytest.approx(head.scale)


def test_inconsistent_views_are_refused():
    head, _, projections = cameras_around_head([-0.9, 0.0, 0.8])
    seen = landmarks_in(projections, head)
    with pytest.raises(NoHeadError, match="too few"):
        locate_head(projections, {name: seen[name] for name in ("0", "1")})
    rng = np.random.default_rng(0)
    noise = {name: rng.uniform(0, 300, (5, 2)) for name in seen}
    with pytest.raises(NoHeadError, match=r"do not agree|not those of a face"):
        locate_head(projections, noise)


@pytest.mark.parametrize("yaw", [0.2, -1.2, 2.9])
def test_virtual_view_projects_points_exactly(yaw: float):
    """A dot at a point's pixel in the photo appears in the crop where the label projects the point."""
    head, poses, projections = cameras_around_head([yaw])
    intrinsics = projections["0"] @ poses["0"]
    view = virtual_view(poses["0"], intrinsics[:, :3], head)
    np.testing.assert_allclose(project([(0.0, 0.0, 0.2)], view.camera), [[0.5, 0.5]], atol=1e-5)
    rows, columns = np.indices((480, 480))
    for point in (*STANDARD_LANDMARKS, (0.0, 0.18, -0.1)):
        x, y = reproject(projections["0"][None], head.world([point])[0])[0]
        dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
        crop = view.cut(np.round(dot).astype(np.uint8), 96).astype(float)
        v, u = np.indices(crop.shape) + 0.5
        centre = np.array([(crop * u).sum(), (crop * v).sum()]) / crop.sum() / 96
        np.testing.assert_allclose(centre, project([point], view.camera)[0], atol=0.003)


def test_virtual_view_is_black_outside_the_photo():
    head, poses, projections = cameras_around_head([0.0])
    intrinsics = (projections["0"] @ poses["0"])[:, :3]
    aside = intrinsics.copy()
    aside[0, 2] -= 240
    inside = virtual_view(poses["0"], intrinsics, head).inside(480, 480)
    view = virtual_view(poses["0"], aside, head)
    assert view.inside(480, 480) < inside
    crop = view.cut(np.full((480, 480), 255, np.uint8), 64)
    assert (crop > 127).mean() == pytest.approx(view.inside(480, 480), abs=0.03)


def test_triangulation_inverts_projection():
    _, _, projections = cameras_around_head([-0.4, 0.1, 0.6])
    matrices = np.stack(list(projections.values()))
    np.testing.assert_allclose(triangulate(matrices, reproject(matrices, [0.1, 0.2, 0.3])), [0.1, 0.2, 0.3])


def test_camera_from_landmarks_has_eg3d_intrinsics():
    camera = camera_from_landmarks(project(STANDARD_LANDMARKS, label_from_angles(0.1, 0.1)))
    np.testing.assert_allclose(split_label(camera)[1], INTRINSICS, atol=1e-6)
