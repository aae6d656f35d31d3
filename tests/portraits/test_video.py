import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from portraits import video
from portraits.video import check_video, write_video


@pytest.mark.parametrize(("side", "shown"), [(64, 256), (300, 300), (301, 302)])
def test_video_round_trip(tmp_path, side, shown):
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    write_video(tmp_path / "a.mp4", [Image.new("RGB", (side, side), colour) for colour in colours], 10)
    clip = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert clip.get(cv2.CAP_PROP_FPS) == 10
    for colour in colours:
        read, frame = clip.read()
        assert read
        assert frame.shape == (shown, shown, 3)
        assert np.abs(frame.mean((0, 1))[::-1] - colour).max() < 12
    assert not clip.read()[0]


def test_failed_video_keeps_the_old_file(tmp_path):
    write_video(tmp_path / "a.mp4", [Image.new("RGB", (64, 64), "tan")], 10)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(AttributeError):
        write_video(tmp_path / "a.mp4", [Image.new("RGB", (64, 64), "red"), None], 10)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_missing_ffmpeg_package_is_an_input_error(monkeypatch):
    monkeypatch.setattr(video, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install imageio-ffmpeg"):
        check_video()
