"""The built-in head: its position in EG3D's frame, its determinism, and detection of its face."""

import mitsuba as mi
import numpy as np
import pytest
from facenet_pytorch import MTCNN
from PIL import Image

from generators.parametric.anatomy import Shape, anatomy
from generators.parametric.environment import background, sample_environment
from generators.parametric.expression import EXPRESSIONS, sample_expression
from generators.parametric.hair import cover
from generators.parametric.person import sample_person
from generators.parametric.renderer import SyntheticHead, render_on_threads
from generators.parametric.scene import _lights, _sensor
from portraits.cameras import label_from_angles, project
from portraits.geometry import STANDARD_LANDMARKS, similarity

FRONTAL = label_from_angles(0.0, 0.0)


def detect(image: np.ndarray) -> np.ndarray | None:
    """MTCNN's five points (5, 2) in normalised coordinates, or None."""
    side = 224
    shown = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    boxes, _, points = MTCNN(post_process=False).detect(shown, landmarks=True)
    return None if boxes is None else np.asarray(points[0], dtype=float) / side


def test_similarity_recovers_a_known_transform():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    points = rng.standard_normal((7, 3))
    scale, found, shift = similarity(points, 1.7 * points @ rotation.T + (1, 2, 3))
    assert scale == pytest.approx(1.7)
    np.testing.assert_allclose(found, rotation, atol=1e-9)
    np.testing.assert_allclose(shift, (1, 2, 3), atol=1e-9)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_landmarks_of_every_shape_match_eg3d(seed):
    body = anatomy()
    shape = sample_person(np.random.default_rng(seed)).shape
    scale, rotation, shift = body.canonical(shape)
    neutral = body.vertices(shape, {})
    points = np.stack([neutral[index].mean(0) for index in body.landmark_vertices])
    placed = scale * points @ rotation.T + shift
    error = project(placed, FRONTAL) - project(STANDARD_LANDMARKS, FRONTAL)
    assert np.abs(error).max() < 0.04


def test_detected_landmarks_match_eg3d():
    images = [SyntheticHead(samples=8).render(identity, FRONTAL, 112).images[0] for identity in (0, 1, 2)]
    errors = np.stack([detect(image) - project(STANDARD_LANDMARKS, FRONTAL) for image in images])
    assert np.abs(errors.mean(0)).max() < 0.04
    assert np.abs(errors).max() < 0.08


def test_identity_does_not_depend_on_threads():
    cameras = np.stack([label_from_angles(yaw, 0.1) for yaw in (-1.0, 0.4)])
    renders = []
    for threads in (1, 2):
        render_on_threads(threads)
        renders.append(SyntheticHead(samples=2).render(5, cameras, 32))
    np.testing.assert_array_equal(renders[0].images, renders[1].images)
    np.testing.assert_array_equal(renders[0].masks, renders[1].masks)
    other = SyntheticHead(samples=2).render(6, cameras, 32)
    assert np.abs(other.images.astype(int) - renders[0].images).mean() > 10
    assert renders[0].masks[:, 14:18, 14:18].min() == 255
    assert renders[0].masks[1, :8, 0].max() == 0


def test_background_matches_mitsubas_environment():
    """Our composited background equals Mitsuba's render of the empty scene."""
    environment = sample_environment(np.random.default_rng(3))
    label = label_from_angles(0.6, -0.2)
    scene = mi.load_dict({"type": "scene", **_lights(environment)})
    seen = np.asarray(
        mi.render(scene, sensor=_sensor(label, 24, 256), integrator=mi.load_dict({"type": "path"}), spp=256)
    )
    ours = background(environment, label, 24, oversample=8)
    assert np.abs(seen[..., :3] - ours).mean() < 0.01 * ours.mean()


def test_background_depends_on_the_camera():
    environment = sample_environment(np.random.default_rng(4))
    here, there = (background(environment, label_from_angles(yaw, 0.0), 24) for yaw in (0.0, 0.5))
    assert np.abs(here - there).mean() > 1e-3


def test_expressions_use_annys_actions_within_range():
    known = set(anatomy().model.facial_action_labels)
    for seed in range(50):
        name, actions = sample_expression(np.random.default_rng(seed))
        assert name in EXPRESSIONS
        assert set(actions) <= known
        assert all(0 <= amount <= 1 for amount in actions.values())


def test_people_vary_and_hair_does_not_cover_the_face():
    people = [sample_person(np.random.default_rng(seed)) for seed in range(200)]
    ages = [person.shape.phenotypes["age"] for person in people]
    assert min(ages) < 0.68
    assert max(ages) > 0.9
    assert {person.hair.bald for person in people} == {True, False}
    face = np.array([[0.0, -0.02, -0.03], [0.03, 0.0, 0.0]])  # nose and eye, from the point between the eyes
    assert max(cover(face, person.hair).max() for person in people) == 0


def test_mean_shape_is_the_template():
    body = anatomy()
    np.testing.assert_allclose(body.vertices(Shape(body.mean_phenotypes(), {}), {}), body.template)


@pytest.mark.slow
def test_faces_are_detected_in_95_percent_of_renders():
    rng = np.random.default_rng(0)
    found = []
    for identity in range(100, 130):
        cameras = np.stack(
            [label_from_angles(*np.radians((rng.uniform(-45, 45), rng.uniform(-15, 15)))) for _ in range(4)]
        )
        found += [detect(image) is not None for image in SyntheticHead().render(identity, cameras, 64).images]
    assert np.mean(found) >= 0.95
