"""The preview of the dragged head: its cameras, its cache and its limits."""

import numpy as np
import pytest

from app import camera
from app.camera import MAX_YAW, SIDE, LiveCamera
from portraits.cameras import angles
from tests.faces import FlatRenderer


class Recorder(FlatRenderer):
    """A renderer that records its calls."""

    def __init__(self):
        self.calls = []

    def render(self, identity, labels, size):
        self.calls.append((identity, *np.degrees(angles(labels[0])).round(3).tolist(), size))
        return super().render(identity, labels, size)


@pytest.fixture
def renderer(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(camera, "open_renderer", lambda _: recorder)
    return recorder


def test_frames_are_cached_by_rounded_angles(renderer):
    live = LiveCamera("eg3d:folder")
    first = live.frame(20.2, -10.4, 3)
    assert live.frame(19.8, -9.6, 3) is first
    assert renderer.calls == [(3, 20.0, -10.0, SIDE)]
    assert live.frame(20.0, -10.0, 4).tobytes() != first.tobytes()


def test_angles_are_clamped_to_the_limits_of_the_widget(renderer):
    live = LiveCamera("eg3d:folder")
    live.frame(1e9, float("nan"), -7)
    assert renderer.calls == [(0, float(MAX_YAW), 0.0, SIDE)]


@pytest.mark.slow
def test_built_in_head_turns_with_the_camera():
    live = LiveCamera("studio")
    left, front, right = (np.asarray(live.frame(yaw, 0, 0)).astype(float) for yaw in (-40, 0, 40))
    assert left.shape == (SIDE, SIDE, 3)
    mirrored = np.abs(left - right[:, ::-1]).mean()
    assert mirrored < np.abs(left - right).mean()
    assert np.abs(left - front).mean() > 5
