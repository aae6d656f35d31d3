import numpy as np
import pytest

from benchmarks.pose import fit, people, table, title, triangulated
from core.errors import InputError
from metrics.faces import Reading
from metrics.landmarks import FACE_51, JAW
from portraits.alignment.detection import Face
from portraits.cameras import label_from_angles, project
from portraits.geometry import STANDARD_LANDMARKS
from shards.builder import build
from tests.shards.fake_source import FakeSource

SIDE = 64


class ExactDetector:
    """A landmark detector that returns `FACE_51` as seen by the given cameras, one after the other."""

    def __init__(self, cameras):
        self.cameras = iter(cameras)

    def points(self, face):
        pixels = project(FACE_51, next(self.cameras)) * SIDE - 0.5
        return np.concatenate([np.zeros((JAW, 2)), face.square.normalised(pixels)])


def test_triangulation_recovers_the_landmarks():
    turns = ((-0.4, 0.1), (0.0, 0.0), (0.1, -0.2), (0.5, 0.1))
    cameras = [label_from_angles(yaw, pitch) for yaw, pitch in turns]
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    faces = [Face(np.zeros(4), project(STANDARD_LANDMARKS, camera) * SIDE - 0.5, 1.0) for camera in cameras]
    views = [(Reading(image, face), camera) for face, camera in zip(faces, cameras, strict=True)]
    np.testing.assert_allclose(triangulated(views, ExactDetector(cameras)), FACE_51, atol=1e-4)


def test_table_has_medians_by_yaw():
    yaws = np.array([3.0, -10.0, 40.0])
    errors = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0], [np.nan] * 3])
    lines = table(yaws, {"mtcnn": errors}).splitlines()
    assert lines[2] == "| 0-15° | 2 of 2 | 2.0° | 3.0° | 4.0° |"
    assert lines[4].startswith("| 30-45° | 0 of 1 |")


def test_title_has_the_image_size(faceless_capture):
    assert title(str(faceless_capture)) == "Median errors of POSE in images of 16 pixels"


def test_too_few_views_are_an_input_error(faceless_capture):
    with pytest.raises(InputError, match="nobody has 4 views"):
        fit(people(str(faceless_capture), "test", None))


@pytest.fixture
def faceless_capture(tmp_path):
    """Two captured people without faces."""
    build(FakeSource(2, 1, views=4, size=16), tmp_path / "fake", 0)
    return tmp_path / "fake"
