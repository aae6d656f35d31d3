"""Dense landmarks: cameras from exact ones, and MediaPipe's networks on a photo where available."""

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from core import packaged_files
from portraits.alignment import mesh
from portraits.alignment.align import align
from portraits.alignment.camera import rotation_of_turn, turn_of_rotation
from portraits.alignment.detection import FaceDetector
from portraits.alignment.mesh_camera import Calibration, camera_from_mesh, canonical_face
from portraits.cameras import FOCAL, angles, label_from_angles, project, split_label
from portraits.geometry import STANDARD_LANDMARKS


@pytest.fixture
def networks():
    """Skip where the networks are not available."""
    if not mesh.available():
        pytest.skip("MediaPipe's networks are not on this machine")


def seen_by(camera):
    """The canonical face as a camera (25,) sees it: (468, 3), the depths in units of the image side."""
    face = canonical_face()
    pose = split_label(camera)[0].astype(np.float64)
    depths = ((face - pose[:3, 3]) @ pose[:3, :3])[:, 2]
    return np.concatenate([project(face, camera), (depths * FOCAL / depths.mean())[:, None]], axis=1)


@pytest.mark.parametrize("turn", [(0, 0, 0), (25, -10, 0), (-40, 15, 12), (60, 5, -20), (-70, -20, 50)])
def test_camera_from_exact_mesh_is_within_a_degree(turn):
    camera = label_from_angles(*np.radians(turn))
    found = camera_from_mesh(seen_by(camera), calibration=Calibration())
    error = turn_of_rotation(split_label(found)[0][:3, :3]) - turn_of_rotation(split_label(camera)[0][:3, :3])
    assert np.degrees(np.abs(error)).max() < 0.7  # the fit ignores perspective
    assert np.degrees(np.abs(angles(found) - angles(camera))).max() < 0.7


def test_turn_and_rotation_are_inverse():
    turn = np.array([0.6, -0.3, 1.2])
    np.testing.assert_allclose(turn_of_rotation(rotation_of_turn(turn)), turn)


def test_calibration_is_monotonic_and_odd_in_yaw():
    calibration = Calibration(0.9, 0.2)
    yaws = np.linspace(-1.2, 1.2, 25)
    corrected = np.array([calibration.correct(np.array([yaw, 0.1, 0.2])) for yaw in yaws])
    assert (np.diff(corrected[:, 0]) > 0).all()
    np.testing.assert_allclose(corrected[:, 0], -corrected[::-1, 0])
    np.testing.assert_allclose(corrected[:, 1:], [[0.1, 0.2]] * 25)


def test_canonical_face_matches_eg3d_landmarks():
    face = canonical_face()
    assert face.shape == (mesh.POINTS, 3)
    np.testing.assert_allclose(face[[33, 133]].mean(0), STANDARD_LANDMARKS[0], atol=0.04)
    np.testing.assert_allclose(face[4], STANDARD_LANDMARKS[2], atol=0.05)
    np.testing.assert_allclose(face[[33, 61]] * (-1, 1, 1), face[[263, 291]], atol=1e-6)


@pytest.mark.usefixtures("networks")
def test_tilting_a_photo_changes_only_the_mesh_roll():
    photo = Image.fromarray(astronaut())
    turns = []
    for tilt in (-60, -25, 0, 25, 60):
        found = align(photo.rotate(tilt, Image.Resampling.BICUBIC, center=(225, 115)), 64)
        turns.append(np.degrees(turn_of_rotation(split_label(found.camera)[0][:3, :3])) - (0, 0, tilt))
    assert np.ptp(turns, axis=0)[:2].max() < 2
    assert np.ptp(turns, axis=0)[2] < 2


@pytest.mark.usefixtures("networks")
def test_dense_and_sparse_detectors_agree():
    photo = Image.fromarray(astronaut())
    fast, (first, *_) = FaceDetector().largest(photo), FaceDetector().faces(photo)
    plain = FaceDetector(dense=False).faces(photo)[0]
    assert plain.mesh is None
    assert fast.mesh.shape == (mesh.POINTS, 3)
    np.testing.assert_allclose(fast.landmarks, first.landmarks, atol=1.5)
    np.testing.assert_allclose(fast.landmarks, plain.landmarks, atol=6)
    np.testing.assert_allclose(fast.box, plain.box, atol=12)


@pytest.mark.usefixtures("networks")
def test_blank_image_has_no_face():
    blank = np.full((90, 140, 3), 127, np.uint8)
    assert mesh.detect(blank) == []
    assert FaceDetector().largest(Image.fromarray(blank)) is None


def test_detector_falls_back_to_five_landmarks_with_one_warning(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("DIFFPORTRAIT3D_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    packaged_files._first_attempt.cache_clear()
    mesh._warn_once.cache_clear()
    photo = Image.fromarray(astronaut())
    face = FaceDetector().largest(photo)
    assert face.mesh is None
    assert face.landmarks.shape == (5, 2)
    assert FaceDetector().largest(photo) is not None
    lines = [record.message for record in caplog.records if "dense face landmarks" in record.message]
    assert len(lines) == 1
    assert "pip could not download mediapipe==0.10.14" in lines[0]
