"""ID and POSE: ideal values, ordering, recovered cameras, and images without a face."""

import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1

from benchmarks.pose import MIRRORED
from core.errors import InputError
from metrics import ID, POSE, CameraPOSE
from metrics.catalogue import CATALOGUE
from metrics.faces import FaceReader
from metrics.landmarks import FACE_51, head_cameras
from metrics.pose import angle_scores, camera_angles, head_angles, wrapped
from metrics.recognition import FacenetRecogniser
from portraits.alignment.camera import camera_from_landmarks
from portraits.cameras import label_from_angles, project
from portraits.geometry import STANDARD_LANDMARKS
from portraits.pixels import to_pixels
from tests.faces import rendered_heads
from tests.metrics.conftest import distorted

NEEDS_DLIB = pytest.mark.skipif(not CATALOGUE["dlib"].available, reason="dlib's models are not installed")


@pytest.fixture(scope="module")
def readings(people):
    """Face readings of two people at five cameras, by person, and the cameras' yaw in degrees (2, 5)."""
    reader = FaceReader()
    yaw = np.degrees(camera_angles(people.cameras[:2, :5])[:, 0]).reshape(2, 5)
    return [reader.read(views) for views in people.views[:2, :5]], yaw


def near_frontal(readings, yaw, limit=30.0):
    """Two readings of each person within `limit` degrees of yaw."""
    return [
        [r for r, angle in zip(row, angles, strict=True) if r is not None and abs(angle) < limit][:2]
        for row, angles in zip(readings, yaw, strict=True)
    ]


def test_image_without_a_face_counts_as_failure(photo):
    blank = torch.zeros_like(photo)
    metric = POSE()
    metric.update(torch.cat([photo, blank, photo]), torch.cat([photo, photo, blank]))
    results = metric.results()
    assert results[metric.label] == 0
    assert results[f"{metric.label}_failures"] == 2
    assert results[f"{metric.label}_failures_of_truth"] == 1
    assert results[f"{metric.label}_by_camera"] == 0
    assert int(metric.scored) == 1


def test_undetected_face_is_located_by_its_camera(people, photo):
    blank = torch.zeros_like(people.views[:1, 0])
    reader = FaceReader()
    (found,) = reader.read(blank, people.cameras[:1, 0])
    assert reader.read(blank) == [None]
    assert found.by_camera
    assert found.face.mesh is None
    five = project(STANDARD_LANDMARKS, people.cameras[0, 0].double().numpy())
    np.testing.assert_allclose(found.landmarks, five * 64 - 0.5, atol=1e-6)
    assert not reader.read(photo, people.cameras[:1, 0])[0].by_camera
    metric = ID("dlib", reader) if CATALOGUE["dlib"].available else POSE("mtcnn-5", reader)
    metric.update([found], reader.read(photo))
    assert metric.results()[f"{metric.label}_by_camera"] == 1
    # POSE would compare the camera with itself
    assert np.isnan(head_angles([found], head_cameras("mtcnn-5"))).all()


def test_camera_angles_invert_the_label():
    yaw, pitch, roll = 0.4, -0.2, 0.3
    found = camera_angles(label_from_angles(yaw, pitch, roll, pivot=(0, 0, 0)))
    np.testing.assert_allclose(found, [[yaw, pitch, roll]], atol=1e-6)


def test_angle_differences_wrap_around():
    scores = angle_scores(np.array([[np.pi - 0.1, 0, 0]]), np.array([[-np.pi + 0.1, 0, 0]]))
    assert float(scores[0, 0]) == pytest.approx(0.04, rel=1e-4)
    assert float(scores[0, 1]) == pytest.approx(np.degrees(0.2), rel=1e-4)
    assert wrapped(np.array([3 * np.pi]))[0] == pytest.approx(-np.pi)


def test_pose_increases_with_yaw(readings):
    views, yaw = readings
    errors = []
    for row, angles in zip(views, yaw, strict=True):
        found = [(abs(angle), r, angle) for r, angle in zip(row, angles, strict=True) if r is not None]
        frontal = min(found, key=lambda pair: pair[0])
        turned = [(abs(angle - frontal[2]), r) for _, r, angle in found]
        scores = POSE().compare([r for _, r in turned], [frontal[1]] * len(turned))[:, 1]
        order = np.argsort([turn for turn, _ in turned])
        errors.append(np.corrcoef(np.arange(len(order)), scores.numpy()[order])[0, 1])
        assert float(scores.min()) == 0
    assert np.mean(errors) > 0.8


def test_known_cameras_are_recovered(people, readings):
    views, yaw = readings
    metric = CameraPOSE()
    for row, cameras, angles in zip(views, people.cameras[:2, :5], yaw, strict=True):
        near = np.abs(angles) < 40
        metric.update([r for r, keep in zip(row, near, strict=True) if keep], cameras[torch.from_numpy(near)])
    results = metric.results()
    assert results[f"{metric.label}_failures"] == 0
    assert results[f"{metric.label}_yaw_degrees"] < 8
    assert results[f"{metric.label}_pitch_degrees"] < 8


def test_facenet_embeddings_are_normalised_and_differ(publish, readings):
    publish("vggface2", InceptionResnetV1(classify=False, num_classes=None))
    embed = FacenetRecogniser()
    faces = [row[0] for row in near_frontal(*readings)]
    embeddings = embed(faces)
    assert embeddings.shape == (2, 512)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    assert not torch.allclose(embeddings[0], embeddings[1], atol=1e-5)
    metric = ID()
    assert metric.label == "ID"
    torch.testing.assert_close(metric.compare(faces, faces), torch.ones(2, 1))


@NEEDS_DLIB
def test_dlib_landmarks_recover_known_cameras():
    heads = rendered_heads()
    images = torch.cat([to_pixels(np.array(head.image))[None] for head in heads])
    metric, pair = CameraPOSE("dlib-68"), POSE("dlib-68")
    assert (metric.label, pair.label) == ("POSE[dlib-68-label]", "POSE[dlib-68]")
    faces = metric.reader.read(images)
    errors = metric.scores(faces, torch.from_numpy(np.stack([head.label for head in heads])))
    assert (errors[:, 1:].median(0).values < 6).all(), errors
    assert float(pair.compare(faces, faces).abs().max()) == 0
    # dlib's landmarks are really used: MTCNN's five give other angles
    five = head_angles(faces, head_cameras("mtcnn-5"))
    assert not np.allclose(head_angles(faces, pair.cameras_of), five, atol=1e-3)


def test_camera_from_51_landmarks_inverts_projection():
    for yaw, pitch in ((0.0, 0.0), (0.5, -0.2), (-0.9, 0.3)):
        camera = label_from_angles(yaw, pitch)
        found = camera_from_landmarks(project(FACE_51, camera), FACE_51)
        np.testing.assert_allclose(camera_angles(found), camera_angles(camera), atol=2e-3)


def test_51_landmarks_are_symmetric_and_match_eg3d():
    np.testing.assert_allclose(FACE_51[list(MIRRORED)] * (-1, 1, 1), FACE_51, atol=1e-9)
    eyes = [FACE_51[19:25].mean(0), FACE_51[25:31].mean(0)]
    np.testing.assert_allclose(eyes, STANDARD_LANDMARKS[:2], atol=0.01)


def test_unknown_landmarks_are_an_input_error():
    with pytest.raises(InputError, match="POSE takes the landmarks mediapipe-468, mtcnn-5, dlib-68"):
        POSE("dlib")


@pytest.mark.parametrize("weights", ["dlib", "sface"])
def test_id_separates_people_and_decreases_with_blur(readings, photo, weights):
    if not CATALOGUE[weights].available:
        pytest.skip(f"{weights} is not on this machine")
    metric = ID(weights)
    assert metric.label == f"ID[{weights}]"
    first, second = zip(*near_frontal(*readings), strict=True)
    torch.testing.assert_close(metric.compare(first, first), torch.ones(2, 1))
    same, other = metric.compare(first, second), metric.compare(first, [*second[1:], second[0]])
    assert float(same.min()) > float(other.mean())
    assert float(same.mean()) > float(other.max())
    blurred = [metric.reader.read(distorted(photo, "blur", amount))[0] for amount in (0.5, 1.5, 3.0)]
    fading = metric.compare(blurred, metric.reader.read(photo) * 3)[:, 0].tolist()
    assert fading == sorted(fading, reverse=True)


@pytest.mark.parametrize("weights", ["dlib", "sface"])
def test_id_decreases_as_another_person_is_blended_in(people, weights):
    if not CATALOGUE[weights].available:
        pytest.skip(f"{weights} is not on this machine")
    metric = ID(weights)
    near = people.cameras[:, :, :16].unflatten(2, (4, 4))[:, :, 0, 3].abs().argmin(1)
    first, other = people.views[0, near[0]], people.views[1, near[1]]
    blends = torch.stack([torch.lerp(first, other, share) for share in (0.0, 0.5, 1.0)])
    cosines = metric.scores(blends, first.expand_as(blends))[:, 0].tolist()
    assert cosines == sorted(cosines, reverse=True), cosines


def test_head_angles_without_a_face_are_nan():
    assert np.isnan(head_angles([None], head_cameras("mtcnn-5"))).all()
