"""Reading and writing of cameras: EG3D labels in JSON or NPY files, and poses estimated from photos. K
cameras."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.arrays import parse_npy
from core.errors import InputError
from core.files import write_json
from portraits.alignment.align import NoFaceError, align
from portraits.alignment.detection import FaceDetector
from portraits.alignment.photos import SUFFIXES, open_photo
from portraits.cameras import LABEL_SIZE, repair_labels
from portraits.image_folders import view_files

CAMERAS = "cameras"
LABEL_SUFFIXES = (".json", ".npy")
POSE_SIDE = 64  # side of the temporary crop for pose estimation
MAX_VALUE = 1e30  # within float32's range; integers in JSON are unbounded
MAX_BYTES = 1 << 28


def read_cameras(paths: Sequence[Path], detector: FaceDetector | None = None) -> NDArray[np.float32]:
    """The EG3D labels (K, 25) from files and folders, in the order of `paths`.

    A `.json` or `.npy` file holds labels (see `read_label_file`); for a photo, the camera is estimated; a
    folder stands for the photos in it. Rotations with an orthogonality error of up to 2e-2 are replaced by
    the nearest rotation.

    Raises InputError, naming the file, for other or damaged files, photos without a face, and invalid
    cameras.
    """
    return np.concatenate([_read(path, detector) for path in paths])


def read_label_file(path: Path) -> list[tuple[float, ...]]:
    """The labels in a file as K tuples of 25 finite numbers, not yet checked to be valid cameras.

    JSON files hold `[[25 numbers], …]`, `[25 numbers]`, `{"cameras": …}` as `write_cameras` writes it,
    `{"label": [25 numbers]}`, or EG3D's `{"labels": [[name, [25 numbers]], …]}`; numbers may be strings, as
    PanoHead writes them. NPY files hold an array (K, 25) or (25,).

    Raises InputError naming the file.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than a file of cameras can be")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    rows = _npy_rows(data, path) if path.suffix.lower() == ".npy" else _json_rows(data, path)
    if not rows:
        raise InputError(f"{path}: it holds no camera")
    return [parse_label(row, f"{path}: camera {number}") for number, row in enumerate(rows)]


def parse_label(row: Any, where: str) -> tuple[float, ...]:
    """Parse a label: 25 numbers, or strings of numbers. Raises InputError that begins with `where`."""
    if not isinstance(row, list) or not all(type(value) in (int, float, str) for value in row):
        raise InputError(f"{where} is not a list of {LABEL_SIZE} numbers")
    if len(row) != LABEL_SIZE:
        raise InputError(f"{where} has {len(row)} numbers; EG3D labels have {LABEL_SIZE}")
    try:
        numbers = tuple(float(value) for value in row)
    except (ValueError, OverflowError):
        numbers = (np.nan,)
    if not all(abs(number) < MAX_VALUE for number in numbers):
        raise InputError(f"{where} has a number that is not finite")
    return numbers


def write_cameras(labels: ArrayLike, path: Path) -> None:
    """Write labels (K, 25) as JSON for `read_cameras`, without loss."""
    values = np.asarray(labels, dtype=np.float32)
    write_json(path, {CAMERAS: [[float(value) for value in label] for label in values]})


def photo_camera(path: Path, detector: FaceDetector | None = None) -> NDArray[np.float32]:
    """The EG3D label (25,) of a photo's camera, estimated from the largest face. Raises InputError."""
    try:
        return align(open_photo(path), POSE_SIDE, detector=detector).camera
    except NoFaceError as error:
        raise InputError(f"{path}: {error}, so it has no camera: give another photo or labels") from error


def _read(path: Path, detector: FaceDetector | None) -> NDArray[np.float32]:
    suffix = path.suffix.lower()
    if path.is_dir():
        return np.stack([photo_camera(photo, detector) for photo in view_files(path, "photos")])
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of cameras")
    if suffix in LABEL_SUFFIXES:
        return repair_labels(read_label_file(path), str(path))
    if suffix in SUFFIXES:
        return photo_camera(path, detector)[None]
    raise InputError(f"{path}: cameras are read from .json, .npy, or a photo ({', '.join(SUFFIXES)})")


def _json_rows(data: bytes, path: Path) -> list[Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if isinstance(values, dict):
        if _is_row(values.get("label")) or _is_row(values.get("labels")):
            return [values.get("label") or values["labels"]]
        if isinstance(values.get("labels"), list):
            return _named_rows(values["labels"], path)
        values = values.get(CAMERAS)
    if not isinstance(values, list):
        raise InputError(f'{path}: it holds no list of cameras, no "{CAMERAS}" and no EG3D "labels"')
    return [values] if _is_row(values) else values


def _is_row(values: Any) -> bool:
    """Whether JSON values are one label, as opposed to a list of them."""
    return isinstance(values, list) and bool(values) and isinstance(values[0], int | float | str)


def _named_rows(entries: list[Any], path: Path) -> list[Any]:
    if not all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
        raise InputError(f"{path}: its labels are not pairs of a name and {LABEL_SIZE} numbers")
    return [label for _, label in entries]


def _npy_rows(data: bytes, path: Path) -> list[Any]:
    try:
        array = parse_npy(data)
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as an array: {error}") from error
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: it holds no array of numbers (K, {LABEL_SIZE}), but {array.dtype} {array.shape}"
        )
    return np.atleast_2d(array).astype(np.float64).tolist()
