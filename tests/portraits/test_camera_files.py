import json

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from core.errors import InputError
from lightning_modules.sampling.trajectories import trajectory
from portraits.alignment.detection import FaceDetector
from portraits.camera_files import read_cameras, write_cameras
from portraits.cameras import angles
from portraits.geometry import rotation_error

LABELS = trajectory("orbit", 3)


class NoFaces(FaceDetector):
    """A detector that never finds a face."""

    def faces(self, image):  # noqa: ARG002
        return []

    def largest(self, image):  # noqa: ARG002
        return None


def test_cameras_round_trip_exactly(tmp_path):
    write_cameras(LABELS, tmp_path / "cameras.json")
    np.testing.assert_array_equal(read_cameras([tmp_path / "cameras.json"]), LABELS)


def test_all_formats_give_equal_cameras(tmp_path):
    rows = LABELS.tolist()
    forms = {
        "list.json": rows,
        "one.json": rows[0],
        "eg3d.json": {"labels": [[f"{i}.png", row] for i, row in enumerate(rows)]},
    }
    for name, values in forms.items():
        (tmp_path / name).write_text(json.dumps(values))
    np.save(tmp_path / "all.npy", LABELS.astype(np.float64))
    np.save(tmp_path / "one.npy", LABELS[1])
    names = ["list.json", "one.json", "eg3d.json", "all.npy", "one.npy"]
    found = read_cameras([tmp_path / name for name in names])
    np.testing.assert_array_equal(found, np.concatenate([LABELS, LABELS[:1], LABELS, LABELS, LABELS[1:2]]))


def test_photo_gives_a_near_frontal_camera(tmp_path):
    Image.fromarray(astronaut()[:, 90:400]).save(tmp_path / "astronaut.jpg", quality=95)
    (camera,) = read_cameras([tmp_path / "astronaut.jpg"])
    yaw, pitch = np.degrees(angles(camera))
    assert abs(yaw) < 35
    assert abs(pitch) < 25


def changed(index, value):
    rows = LABELS.astype(float).tolist()
    rows[1][index] = value
    return rows


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[[1, 2", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        (json.dumps([]), "holds no camera"),
        (json.dumps({"poses": []}), 'no "cameras"'),
        (json.dumps({"labels": [[1, 2, 3]]}), "labels are not pairs"),
        (json.dumps([row[:16] for row in LABELS.tolist()]), "camera 0 has 16 numbers; .* 25"),
        (json.dumps([*LABELS.tolist(), [0.0] * 26]), "camera 3 has 26 numbers"),
        (json.dumps(changed(3, "much")), "camera 1 has a number that is not finite"),
        (json.dumps(changed(3, "inf")), "camera 1 has a number that is not finite"),
        (json.dumps(changed(3, True)), "camera 1 is not a list of 25 numbers"),
        (json.dumps(changed(0, 0.9)), "camera 1 is not a rigid cam2world"),
        (json.dumps(changed(3, None)), "camera 1 is not a list of 25 numbers"),
        (json.dumps(changed(3, float("nan"))), "camera 1 has a number that is not finite"),
        (json.dumps(changed(3, 10**400)), "camera 1 has a number that is not finite"),
        (json.dumps(changed(0, 3.0)), "camera 1 is not a rigid cam2world"),
        (json.dumps(changed(16, -4.0)), "camera 1 has no positive focal lengths"),
    ],
)
def test_invalid_json_cameras_are_refused(tmp_path, content, line):
    path = tmp_path / "poses.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"poses\.json: .*{line}"):
        read_cameras([path])


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("suffix", [".json", ".npy"])
def test_inexact_rotations_are_orthonormalised(tmp_path, suffix, strings):
    sheared = LABELS.astype(np.float64)
    poses = sheared[:, :16].reshape(-1, 4, 4)
    poses[:, :3, 0] += 0.015 * poses[:, :3, 1]
    path = tmp_path / f"panohead{suffix}"
    if suffix == ".npy":
        np.save(path, sheared)
    else:
        rows = [[f"{value:.8f}" if strings else float(value) for value in row] for row in sheared]
        path.write_text(json.dumps({"labels": [[f"{i}.png", row] for i, row in enumerate(rows)]}))
    found = read_cameras([path])
    rotations = found[:, :16].reshape(-1, 4, 4)[:, :3, :3]
    np.testing.assert_allclose(rotation_error(rotations), 0, atol=1e-6)
    assert 1e-3 < np.abs(found - sheared).max() < 0.01
    np.testing.assert_allclose(found[:, [3, 7, 11]], LABELS[:, [3, 7, 11]], atol=1e-6)
    np.testing.assert_array_equal(found[:, 16:], LABELS[:, 16:])


def test_folder_of_photos_gives_cameras_in_natural_order(tmp_path):
    for name, left in (("10.jpg", 60), ("2.jpg", 90)):
        Image.fromarray(astronaut()[:, left : left + 310]).save(tmp_path / name, quality=95)
    (tmp_path / "._2.jpg").write_bytes(b"\0\5\x16\7")  # macOS's file attributes
    singly = read_cameras([tmp_path / "2.jpg", tmp_path / "10.jpg"])
    np.testing.assert_array_equal(read_cameras([tmp_path]), singly)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="there are no photos in it"):
        read_cameras([tmp_path / "none"])


@pytest.mark.parametrize(
    "array", [np.zeros((2, 4, 4)), np.array(["a"]), np.array([{}], dtype=object), np.zeros((0, 25))]
)
def test_invalid_npy_cameras_are_refused(tmp_path, array):
    np.save(tmp_path / "poses.npy", array)
    with pytest.raises(InputError, match=r"poses\.npy: "):
        read_cameras([tmp_path / "poses.npy"])


def test_files_without_cameras_are_refused(tmp_path):
    (tmp_path / "poses.txt").write_text("0 0 0")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    Image.new("RGB", (64, 64), "green").save(tmp_path / "meadow.png")
    lines = {
        "none.json": "there is no such file of cameras",
        "poses.txt": r"read from \.json, \.npy, or a photo",
        "broken.npy": "cannot be read as an array",
        "meadow.png": "no face is found .* give another photo",
    }
    for name, line in lines.items():
        with pytest.raises(InputError, match=f"{name}: .*{line}"):
            read_cameras([tmp_path / name], NoFaces())
