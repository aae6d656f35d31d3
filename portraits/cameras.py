"""Cameras in EG3D's convention, used throughout the project: labels of 25 numbers.

A label is a cam2world matrix (4x4, row-major, OpenCV axes: x right, y down, z forward) followed by a 3x3
intrinsic matrix divided by the image side. World y is up and the face looks to +z; the camera is on a sphere
of radius 2.7 about the origin and looks at (0, 0, 0.2). Positive yaw moves the camera to +x (the face then
points to the left of the image), positive pitch moves it above the face. Angles are in radians, except in
messages and captions.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import InputError
from portraits.geometry import nearest_rotation, rotation_error

LABEL_SIZE = 25
RADIUS = 2.7
PIVOT = (0.0, 0.0, 0.2)
FOCAL = 4.2647
EXACT = 1e-3  # largest entry of R R^T - I of a valid rotation R
MAX_ROTATION_ERROR = 2e-2  # the same for input labels, whose rotations are then corrected
INTRINSICS = np.array([[FOCAL, 0.0, 0.5], [0.0, FOCAL, 0.5], [0.0, 0.0, 1.0]])

FloatArray = NDArray[np.floating]


def look_at(origin: ArrayLike, pivot: ArrayLike = PIVOT, roll: float = 0.0) -> FloatArray:
    """The cam2world matrix (4, 4) of a camera at `origin` whose optical axis passes through `pivot`.

    The camera is rotated by `roll` radians about that axis; a positive roll turns the image anticlockwise."""
    origin = np.asarray(origin, dtype=np.float64)
    forward = np.asarray(pivot, dtype=np.float64) - origin
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, 0] = cos * right + sin * down
    pose[:3, 1] = -sin * right + cos * down
    pose[:3, 2] = forward
    pose[:3, 3] = origin
    return pose


def label(pose: ArrayLike, intrinsics: ArrayLike = INTRINSICS) -> NDArray[np.float32]:
    """Pack a cam2world matrix (4, 4) and normalised intrinsics (3, 3) into a label (25,)."""
    return np.concatenate([np.ravel(pose), np.ravel(intrinsics)]).astype(np.float32)


def label_from_angles(
    yaw: float, pitch: float, roll: float = 0.0, radius: float = RADIUS, pivot: ArrayLike = PIVOT
) -> NDArray[np.float32]:
    """The label (25,) of a camera at yaw, pitch and roll, radians, on the sphere of `radius` about the
    origin."""
    origin = radius * np.array(
        [np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)], dtype=np.float64
    )
    return label(look_at(origin, pivot, roll))


def split_label(labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Labels (..., 25) to cam2world (..., 4, 4) and normalised intrinsics (..., 3, 3)."""
    labels = np.asarray(labels)
    shape = labels.shape[:-1]
    return labels[..., :16].reshape(*shape, 4, 4), labels[..., 16:].reshape(*shape, 3, 3)


def angles(labels: ArrayLike) -> FloatArray:
    """Yaw and pitch (..., 2), radians, of the cameras' positions about the origin: the inverse of
    `label_from_angles`."""
    position = split_label(labels)[0][..., :3, 3].astype(np.float64)
    x, y, z = np.moveaxis(position, -1, 0)
    return np.stack([np.arctan2(x, z), np.arcsin(y / np.linalg.norm(position, axis=-1))], axis=-1)


def project(points: ArrayLike, labels: ArrayLike) -> FloatArray:
    """Project world points (N, 3) with one label to normalised image coordinates (N, 2).

    (0, 0) is the top left corner of the image, (1, 1) the bottom right one."""
    pose, intrinsics = split_label(labels)
    in_camera = (np.asarray(points, dtype=np.float64) - pose[:3, 3]) @ pose[:3, :3]
    in_image = in_camera @ intrinsics.T
    return in_image[:, :2] / in_image[:, 2:]


def check_labels(labels: ArrayLike, where: str) -> NDArray[np.float32]:
    """Validate labels and return them as float32 (K, 25).

    Raises InputError naming `where` and the first invalid camera, unless all labels are finite, all cam2world
    matrices rigid and all focal lengths positive."""
    try:
        array = np.asarray(labels, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{where}: not rows of {LABEL_SIZE} numbers each (EG3D labels)") from None
    if array.ndim != 2 or array.shape[1] != LABEL_SIZE:
        raise InputError(f"{where}: cameras have shape {array.shape}; EG3D labels are (K, {LABEL_SIZE})")
    _all_cameras(np.isfinite(array).all(axis=1), "has numbers that are not finite", where)
    poses, intrinsics = split_label(array)
    rotations = poses[:, :3, :3]
    rigid = rotation_error(rotations) < EXACT
    rigid &= np.linalg.det(rotations) > 0
    rigid &= np.abs(poses[:, 3] - (0, 0, 0, 1)).max(axis=1) < 1e-4
    _all_cameras(rigid, "is not a rigid cam2world (a rotation and a shift, row by row)", where)
    seeing = (intrinsics[:, 0, 0] > 0) & (intrinsics[:, 1, 1] > 0)
    _all_cameras(seeing, "has no positive focal lengths", where)
    return array


def repair_labels(labels: ArrayLike, where: str) -> NDArray[np.float32]:
    """Labels as float32 (K, 25), with rotations of an orthogonality error up to `MAX_ROTATION_ERROR` replaced
    by the nearest rotation.

    Tools that estimate poses, such as PanoHead's cropping, write such labels. Raises InputError as
    `check_labels`."""
    array = np.array(labels, dtype=np.float64)
    if array.ndim == 2 and array.shape[1] == LABEL_SIZE and np.isfinite(array).all():
        rotations = split_label(array)[0][:, :3, :3]
        error = rotation_error(rotations)
        off = (error >= EXACT) & (error < MAX_ROTATION_ERROR)
        rotations[off] = nearest_rotation(rotations[off])
        array[:, :16].reshape(-1, 4, 4)[:, :3, :3] = rotations
    return check_labels(array, where)


def _all_cameras(valid: ArrayLike, fault: str, where: str) -> None:
    faulty = np.flatnonzero(~np.asarray(valid))
    if len(faulty):
        raise InputError(
            f"{where}: camera {faulty[0]} {fault}; EG3D labels are 25 numbers: 4x4 cam2world, 3x3 intrinsics"
        )
