import numpy as np
import pytest

from benchmarks.mesh_fit import Views, fit_calibration, fit_face, mirror_of
from core.errors import InputError
from portraits.alignment.mesh_camera import canonical_face
from portraits.cameras import label_from_angles
from tests.portraits.test_mesh import seen_by


def exact_views():
    """Projections of the canonical face by 39 known cameras."""
    turns = [(yaw, pitch) for yaw in np.linspace(-60, 60, 13) for pitch in (-15, 0, 15)]
    cameras = np.stack([label_from_angles(*np.radians(turn)) for turn in turns]).astype(np.float64)
    return Views(np.stack([seen_by(camera) for camera in cameras]), np.ones(len(cameras)), cameras)


def test_fit_recovers_the_face_of_exact_landmarks():
    views = exact_views()
    face = fit_face(views)
    np.testing.assert_allclose(face, canonical_face(), atol=0.01)
    found = fit_calibration(views, face)
    assert found.yaw == pytest.approx(1, abs=0.02)
    assert found.yaw_cubed == pytest.approx(0, abs=0.02)


def test_mirror_is_an_involution():
    mirror = mirror_of(canonical_face())
    assert (mirror[mirror] == np.arange(len(mirror))).all()
    assert mirror[33] == 263


def test_too_few_views_are_an_input_error():
    views = exact_views()
    with pytest.raises(InputError, match="give 20 or more"):
        fit_face(Views(views.points[:5], views.scores[:5], views.cameras[:5]))
