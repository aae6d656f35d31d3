"""Export of views and cameras to other tools: nerfstudio, COLMAP and glTF (Blender).

Shape letters: K views.

| format | camera axes | world axes | intrinsics |
|---|---|---|---|
| EG3D label | x right, y down, z forward | y up, the face looks to +z | divided by the image side |
| nerfstudio `transforms.json` | x right, y up, z back (OpenGL) | z up, the face looks to -y | pixels |
| COLMAP text model | x right, y down, z forward | as EG3D | pixels from the image's corner |
| glTF cameras | x right, y up, z back | y up (Blender turns it to z up) | vertical field of view |
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from core.errors import InputError
from core.files import write_json, write_text
from portraits.cameras import check_labels, split_label

FloatArray = NDArray[np.floating]

OPENCV_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
# (x, y, z) with y up to (x, -z, y) with z up
Y_UP_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
NEAR, FAR = 0.1, 10.0  # clipping planes of glTF cameras, in EG3D's units; heads are at about 2.7


def pixel_intrinsics(labels: ArrayLike, side: int) -> FloatArray:
    """The intrinsics (K, 4) of labels (K, 25) as fx, fy, cx, cy in pixels, for images of `side` pixels. The
    image's top left corner is (0, 0), the centre of its first pixel (0.5, 0.5).

    Raises InputError if there is skew, which none of the formats supports.
    """
    intrinsics = split_label(check_labels(labels, "cameras"))[1].astype(np.float64) * side
    if np.abs(intrinsics[:, 0, 1]).max() > 1e-6 * side:
        raise InputError("cameras: their intrinsics have skew, which other tools' formats cannot hold")
    return np.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2]], -1)


def write_nerfstudio(
    labels: ArrayLike, images: Sequence[str], side: int, path: Path, masks: Sequence[str] | None = None
) -> None:
    """Write nerfstudio's `transforms.json`.

    Args:
        labels: EG3D labels (K, 25)
        images: file names of the K images, relative to the folder of `path`
        side: side of the images in pixels
        path: the file to write
        masks: file names of the K foreground masks, white on the person, if any
    """
    poses = split_label(check_labels(labels, "cameras"))[0].astype(np.float64)
    matrices = Y_UP_TO_Z_UP @ poses @ OPENCV_TO_OPENGL
    frames: list[dict[str, Any]] = []
    for number, (intrinsics, matrix) in enumerate(zip(pixel_intrinsics(labels, side), matrices, strict=True)):
        frame: dict[str, Any] = {"file_path": images[number]}
        if masks is not None:
            frame["mask_path"] = masks[number]
        frame |= dict(zip(("fl_x", "fl_y", "cx", "cy"), intrinsics.tolist(), strict=True))
        frames.append(frame | {"w": side, "h": side, "transform_matrix": matrix.tolist()})
    write_json(path, {"camera_model": "OPENCV", "frames": frames})


def write_colmap(labels: ArrayLike, images: Sequence[str], side: int, folder: Path) -> None:
    """Write COLMAP's text model, `cameras.txt`, `images.txt` and an empty `points3D.txt`, into an existing
    folder. `images` are file names relative to COLMAP's image folder; see `write_nerfstudio`."""
    poses = split_label(check_labels(labels, "cameras"))[0].astype(np.float64)
    cameras, views = (
        ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"],
        [
            "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
            "# POINTS2D[] as (X, Y, POINT3D_ID)",
        ],
    )
    for number, (intrinsics, pose) in enumerate(
        zip(pixel_intrinsics(labels, side), poses, strict=True), start=1
    ):
        rotation = pose[:3, :3].T
        x, y, z, w = Rotation.from_matrix(rotation).as_quat()
        values = (w, x, y, z, *(-rotation @ pose[:3, 3]))
        cameras.append(f"{number} PINHOLE {side} {side} " + " ".join(f"{value:.9g}" for value in intrinsics))
        numbers = " ".join(f"{value:.12g}" for value in values)
        views += [f"{number} {numbers} {number} {images[number - 1]}", ""]
    write_text(folder / "cameras.txt", "\n".join(cameras) + "\n")
    write_text(folder / "images.txt", "\n".join(views) + "\n")
    write_text(folder / "points3D.txt", "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]\n")


def gltf_intrinsics(labels: ArrayLike) -> FloatArray:
    """Focal lengths (K,), divided by the image side, of labels (K, 25). Raises InputError on cameras that
    glTF cannot hold: those with skew, oblong pixels, or a principal point beside the image's centre."""
    fx, fy, cx, cy = pixel_intrinsics(labels, 1).T
    if np.abs(np.stack([cx, cy]) - 0.5).max() > 1e-3 or np.abs(fx / fy - 1).max() > 1e-3:
        raise InputError("cameras: glTF needs square pixels and the principal point at the image's centre")
    return fy


def write_gltf(labels: ArrayLike, names: Sequence[str], path: Path) -> None:
    """Write a glTF 2.0 file of K named cameras (File > Import > glTF 2.0 in Blender).

    glTF has no principal point: raises InputError if it is not the image's centre.
    """
    labels = check_labels(labels, "cameras")
    focals = gltf_intrinsics(labels)
    matrices = split_label(labels)[0].astype(np.float64) @ OPENCV_TO_OPENGL
    cameras = [
        {
            "type": "perspective",
            "name": name,
            "perspective": {
                "aspectRatio": 1.0,
                "yfov": 2 * math.atan(0.5 / focal),
                "znear": NEAR,
                "zfar": FAR,
            },
        }
        for name, focal in zip(names, focals.tolist(), strict=True)
    ]
    nodes = [
        {"name": name, "camera": number, "matrix": matrix.T.ravel().tolist()}  # column-major
        for number, (name, matrix) in enumerate(zip(names, matrices, strict=True))
    ]
    scene = {"nodes": list(range(len(nodes)))}
    values = {"asset": {"version": "2.0"}, "cameras": cameras, "nodes": nodes, "scenes": [scene], "scene": 0}
    write_text(path, json.dumps(values, indent=1) + "\n")
