"""NeRSemble end to end with rendered heads and the real face detector."""

import ast
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from portraits.alignment.detection import FaceDetector, choose
from portraits.alignment.head import HeadFrame, locate_head
from portraits.cameras import label
from shards.sources.nersemble.calibration import FULL_SIZE
from shards.sources.nersemble.footage import Picture
from shards.sources.nersemble.source import NersembleCapture
from tests.faces import FlatRenderer
from tests.sources.studio import HEIGHT, WIDTH, Studio, write_json, write_v2, write_video

SAMPLES = 4


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


@pytest.fixture(scope="module")
def pictures(studio: Studio) -> dict[str, np.ndarray]:
    """Renders of one head by the studio's cameras, cropped from squares to portrait format."""
    from generators.parametric.person import sample_person
    from generators.parametric.renderer import capture_instant

    rng = np.random.default_rng(5)
    _, scene = capture_instant(sample_person(rng), rng, HEIGHT, SAMPLES)
    margin = (HEIGHT - WIDTH) // 2
    shown = {}
    for serial in studio.cameras:
        camera = studio.scaled(serial)
        square = camera.intrinsics.copy()
        square[:2, 2] += (margin + 0.5, 0.5)
        square[:2] /= HEIGHT
        image = scene.render(label(studio.head.camera(camera.pose), square)).images[0]
        shown[serial] = image[:, margin : margin + WIDTH]
    return shown


def turn_between(first: HeadFrame, second: HeadFrame) -> float:
    """Angle between two heads' rotations in degrees."""
    return float(np.degrees(Rotation.from_matrix(first.rotation @ second.rotation.T).magnitude()))


@pytest.mark.slow
def test_head_pose_is_recovered(studio: Studio, pictures: dict[str, np.ndarray]):
    source = object.__new__(NersembleCapture)
    cameras = {serial: studio.scaled(serial) for serial in pictures}
    head = source._locate_head({serial: Picture(image) for serial, image in pictures.items()}, cameras)
    assert turn_between(head, studio.head) < 3
    assert abs(head.scale / studio.head.scale - 1) < 0.06


@pytest.mark.slow
def test_head_pose_is_robust_to_wrong_faces(studio: Studio, pictures: dict[str, np.ndarray]):
    from PIL import Image

    rng = np.random.default_rng(0)
    faces = {
        s: choose(FaceDetector(dense=False).faces(Image.fromarray(image))) for s, image in pictures.items()
    }
    landmarks = {s: face.landmarks for s, face in faces.items() if face is not None}
    projections = {s: studio.scaled(s).projection for s in landmarks}
    for serial in list(landmarks)[:3]:
        landmarks[serial] = landmarks[serial] + rng.uniform(20, 60, 2)
    assert turn_between(locate_head(projections, landmarks), studio.head) < 4


@pytest.mark.slow
def test_capture_of_rendered_videos_recovers_cameras(
    studio: Studio, pictures: dict[str, np.ndarray], tmp_path, monkeypatch: pytest.MonkeyPatch
):
    write_v2(tmp_path, "007", "EMO-1-shout+laugh", studio, pictures)
    monkeypatch.setattr(NersembleCapture, "_renderer", FlatRenderer())
    source = NersembleCapture(
        str(tmp_path), 1, 96, val_frames=0, test_frames=0, val_share=0.0, test_share=0.0
    )
    (sample,) = source.capture(source.units()[0])
    assert sample.views.shape == (16, 96, 96, 3)
    true = np.stack([studio.head.camera(camera.pose)[:3, 3] for camera in studio.cameras.values()])
    found = sample.cameras[:, [3, 7, 11]]
    cosine = (true * found).sum(1) / np.linalg.norm(true, axis=1) / np.linalg.norm(found, axis=1)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 4


@pytest.mark.slow
def test_memory_does_not_grow_with_video_length(tmp_path):
    """16 cameras of 2200×3208 pixels, a short and a long sequence."""
    rng = np.random.default_rng(0)
    still = cv2.resize(rng.integers(0, 256, (40, 28, 3), dtype=np.uint8), FULL_SIZE)
    studio = Studio()
    for person, length in (("007", 3), ("009", 7)):
        folder = tmp_path / person / "sequences" / "HAIR" / "images"
        write_video(folder / "cam_0.mp4", [np.roll(still, 9 * t, 0) for t in range(length)])
        for serial in studio.cameras:
            shutil.copy(folder / "cam_0.mp4", folder / f"cam_{serial}.mp4")
        (folder / "cam_0.mp4").unlink()
        write_json(folder.parents[2] / "calibration" / "camera_params.json", studio.calibration())
    script = (
        "import resource, sys; from shards.sources.nersemble.source import NersembleCapture as Capture;"
        "none = dict(val_frames=0, test_frames=0, val_share=0, test_share=0, condition_frames=1);"
        "source = Capture(sys.argv[1], frames=14, **none);"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10;"
        "print([(source.capture(unit)[0].reason, peak()) for unit in source.units()])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    (reason, short), (_, long) = ast.literal_eval(printed.stdout)
    assert reason == "too few views see the face"  # after all 16 images were searched
    assert short < 2500
    assert long < 1.1 * short
