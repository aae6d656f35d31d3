"""Cameras of each format, read by its tool's documented conventions, project points like the labels do."""

import json
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError
from portraits.cameras import label, label_from_angles, look_at, project, split_label
from portraits.scene_formats import write_colmap, write_gltf, write_nerfstudio

SIDE = 128
NAMES = ["000.png", "001.png", "002.png"]
LABELS = np.stack(
    [label_from_angles(0.0, 0.0), label_from_angles(0.7, -0.2, 0.3), label_from_angles(-1.1, 0.4)]
)
POINTS = np.array([[0.0, 0.0, 0.2], [0.2, 0.1, 0.25], [-0.15, -0.2, 0.05], [0.1, 0.25, -0.1]])
EXPECTED = np.stack([project(POINTS, camera) for camera in LABELS]) * SIDE  # (K, P, 2) pixels


def by_opengl(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """World points in an OpenGL camera's frame (looking along -z, y up), as nerfstudio and glTF define it."""
    return (np.c_[points, np.ones(len(points))] @ np.linalg.inv(matrix).T)[:, :3]


def test_nerfstudio_cameras_project_like_labels(tmp_path: Path):
    write_nerfstudio(LABELS, NAMES, SIDE, tmp_path / "transforms.json", masks=[f"m{n}" for n in NAMES])
    values = json.loads((tmp_path / "transforms.json").read_text())
    assert values["camera_model"] == "OPENCV"
    z_up = np.stack([POINTS[:, 0], -POINTS[:, 2], POINTS[:, 1]], -1)
    for frame, expected, name in zip(values["frames"], EXPECTED, NAMES, strict=True):
        x, y, z = by_opengl(np.array(frame["transform_matrix"]), z_up).T
        assert (z < 0).all()
        pixels = np.stack([frame["fl_x"] * x / -z + frame["cx"], frame["cy"] - frame["fl_y"] * y / -z], -1)
        np.testing.assert_allclose(pixels, expected, atol=1e-3)
        assert (frame["file_path"], frame["mask_path"], frame["w"]) == (name, f"m{name}", SIDE)


def test_colmap_cameras_project_like_labels(tmp_path: Path):
    write_colmap(LABELS, NAMES, SIDE, tmp_path)
    cameras = [line.split() for line in (tmp_path / "cameras.txt").read_text().splitlines()[1:]]
    lines = (tmp_path / "images.txt").read_text().splitlines()[2:]
    for camera, line, empty, expected in zip(cameras, lines[::2], lines[1::2], EXPECTED, strict=True):
        assert camera[1:4] == ["PINHOLE", str(SIDE), str(SIDE)]
        assert empty == ""
        fx, fy, cx, cy = map(float, camera[4:])
        w, x, y, z, *shift = map(float, line.split()[1:8])
        # COLMAP's QuaternionToRotationMatrix
        rotation = np.array(
            [
                [1 - 2 * y * y - 2 * z * z, 2 * x * y - 2 * w * z, 2 * x * z + 2 * w * y],
                [2 * x * y + 2 * w * z, 1 - 2 * x * x - 2 * z * z, 2 * y * z - 2 * w * x],
                [2 * x * z - 2 * w * y, 2 * y * z + 2 * w * x, 1 - 2 * x * x - 2 * y * y],
            ]
        )
        in_camera = POINTS @ rotation.T + shift
        pixels = in_camera[:, :2] / in_camera[:, 2:] * (fx, fy) + (cx, cy)
        np.testing.assert_allclose(pixels, expected, atol=1e-3)
    assert lines[0].split()[9] == NAMES[0]


def test_gltf_cameras_project_like_labels(tmp_path: Path):
    write_gltf(LABELS, NAMES, tmp_path / "cameras.gltf")
    values = json.loads((tmp_path / "cameras.gltf").read_text())
    for node, camera, expected in zip(values["nodes"], values["cameras"], EXPECTED, strict=True):
        matrix = np.array(node["matrix"]).reshape(4, 4).T
        x, y, z = by_opengl(matrix, POINTS).T
        focal = 0.5 / np.tan(camera["perspective"]["yfov"] / 2)
        pixels = np.stack([0.5 + focal * x / -z, 0.5 - focal * y / -z], -1) * SIDE
        np.testing.assert_allclose(pixels, expected, atol=1e-2)
        assert node["camera"] == values["nodes"].index(node)


def test_unsupported_cameras_are_refused(tmp_path: Path):
    pose, intrinsics = split_label(LABELS[0])
    skewed, shifted = intrinsics.copy(), intrinsics.copy()
    skewed[0, 1], shifted[0, 2] = 0.1, 0.4
    with pytest.raises(InputError, match="skew"):
        write_colmap(label(pose, skewed)[None], NAMES[:1], SIDE, tmp_path)
    with pytest.raises(InputError, match="principal point"):
        write_gltf(label(pose, shifted)[None], NAMES[:1], tmp_path / "cameras.gltf")
    with pytest.raises(InputError, match="rigid"):
        write_nerfstudio(
            label(look_at((0, 0, 2.7)) * 2, intrinsics)[None], NAMES[:1], SIDE, tmp_path / "transforms.json"
        )
    assert not list(tmp_path.iterdir())
