"""Cameras from files: EG3D labels as JSON or NPY, or the pose of any photo of anyone. K cameras."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import InputError
from core.files import write_json
from portraits.alignment.align import NoFaceError, align
from portraits.alignment.detection import FaceDetector
from portraits.alignment.photos import SUFFIXES, open_photo
from portraits.cameras import LABEL_SIZE, check_labels

CAMERAS = "cameras"
POSE_SIDE = 64  # the crop itself is not used
TOO_LARGE = 1e30  # for float32, nearly; JSON has integers of any size


def read_cameras(paths: Sequence[Path], detector: FaceDetector | None = None) -> NDArray[np.float32]:
    """EG3D labels (K, 25) of all files, one after the other.

    A `.json` holds `[[25 numbers], …]`, one label, `{"cameras": …}` as `write_cameras` has it, or EG3D's own
    `{"labels": [[name, [25 numbers]], …]}`; a `.npy` an array (K, 25) or (25,); a photo the camera that
    `portraits.alignment` finds it taken by. Raises InputError naming the file where it is none of these, is
    damaged, holds no face, or a camera has another count of numbers, is not finite, or no rotation.
    """
    return np.concatenate([_read(path, detector) for path in paths])


def write_cameras(labels: ArrayLike, path: Path) -> None:
    """Labels (K, 25) as the JSON that `read_cameras` reads back exactly."""
    values = np.asarray(labels, dtype=np.float32)
    write_json(path, {CAMERAS: [[float(value) for value in label] for label in values]})


def photo_camera(path: Path, detector: FaceDetector | None = None) -> NDArray[np.float32]:
    """The EG3D label (25,) of the camera that took a photo, by the largest face on it. Raises InputError."""
    try:
        return align(open_photo(path), POSE_SIDE, detector=detector).camera
    except NoFaceError as error:
        raise InputError(f"{path}: {error}, so that it has no pose: give another photo or labels") from error


def _read(path: Path, detector: FaceDetector | None) -> NDArray[np.float32]:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of cameras")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _labels(_json_rows(path), path)
    if suffix == ".npy":
        return _labels(_npy_rows(path), path)
    if suffix in SUFFIXES:
        return photo_camera(path, detector)[None]
    raise InputError(f"{path}: cameras are read from .json, .npy, or a photo ({', '.join(SUFFIXES)})")


def _labels(rows: list[Any], path: Path) -> NDArray[np.float32]:
    """Rows of a file, checked one by one: how many numbers each has, then what they are."""
    if not rows:
        raise InputError(f"{path}: it holds no camera")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not all(type(value) in (int, float) for value in row):
            raise InputError(f"{path}: camera {number} is not a list of {LABEL_SIZE} numbers")
        if len(row) != LABEL_SIZE:
            raise InputError(f"{path}: camera {number} has {len(row)} numbers; EG3D labels have {LABEL_SIZE}")
        if not all(abs(value) < TOO_LARGE for value in row):
            raise InputError(f"{path}: camera {number} has a number that is not finite")
    return check_labels(rows, str(path))


def _json_rows(path: Path) -> list[Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if isinstance(values, dict) and isinstance(values.get("labels"), list):
        named = values["labels"]
        if not all(isinstance(entry, list) and len(entry) == 2 for entry in named):
            raise InputError(f"{path}: its labels are not pairs of a name and {LABEL_SIZE} numbers")
        return [label for _, label in named]
    if isinstance(values, dict):
        values = values.get(CAMERAS)
    if not isinstance(values, list):
        raise InputError(f'{path}: it holds no list of cameras, no "{CAMERAS}" and no EG3D "labels"')
    return values if not values or isinstance(values[0], list) else [values]


def _npy_rows(path: Path) -> list[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        shape = getattr(array, "shape", None)
        raise InputError(f"{path}: it holds no array of numbers (K, {LABEL_SIZE}), but {shape}")
    return np.atleast_2d(array).astype(np.float64).tolist()
