"""The camera of an EG3D crop from its five landmarks: perspective-n-point with EG3D's fixed intrinsics."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from portraits.alignment.crop import Square
from portraits.cameras import INTRINSICS, RADIUS, label, split_label
from portraits.geometry import STANDARD_LANDMARKS

LANDMARK_SPREAD = 0.012  # standard deviation of landmarks (detection and anatomy), of the image side
DISTANCE_SPREAD = 0.3  # standard deviation of the camera's distance from EG3D's nominal one
# EG3D's crop corresponds to a camera at 10 of the landmarks' units (2.7 of ours) from their origin.
LANDMARKS_ORIGIN = (0.0, 0.006, 0.161)
FLIP = np.diag([1.0, -1.0, -1.0])  # x right, y up, z to the viewer ↔ OpenCV's axes
TURN_SIGNS = np.array([1.0, -1.0, -1.0])  # signs of yaw, pitch and roll relative to rotations about the axes


def camera_from_landmarks(
    landmarks: ArrayLike, face: NDArray[np.floating] = STANDARD_LANDMARKS
) -> NDArray[np.float32]:
    """The EG3D label (25,) of a crop from its landmarks (N, 2), normalised to the crop.

    The reprojection error of `face` (N, 3), the landmarks' positions on a face in EG3D's frame (by default
    the five used for cropping), is minimised with fixed intrinsics and a weak prior on the distance. The
    camera is then moved onto EG3D's sphere, as in EG3D's own labels."""
    seen = np.asarray(landmarks, dtype=np.float64)
    start = _orthographic_rotation(seen, face)

    def residuals(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        rotation, position = _pose(parameters)
        in_camera = (face - position) @ rotation
        in_image = in_camera @ INTRINSICS.T
        error = in_image[:, :2] / np.maximum(in_image[:, 2:], 0.1) - seen
        distance = np.linalg.norm(position - LANDMARKS_ORIGIN) - RADIUS
        return np.append(error.ravel() / LANDMARK_SPREAD, distance / DISTANCE_SPREAD)

    first = np.concatenate([Rotation.from_matrix(start).as_rotvec(), (0.0, 0.0, RADIUS)])
    rotation, position = _pose(least_squares(residuals, first, method="lm").x)
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = position * (RADIUS / np.linalg.norm(position))
    return label(pose)


def turn_of_rotation(rotation: ArrayLike) -> NDArray[np.float64]:
    """Yaw, pitch and roll (…, 3), radians, of cam2world rotations (…, 3, 3): the camera's orientation
    relative to the head, independent of the head's position in the image. Signs as in `portraits.cameras`."""
    matrices = np.asarray(rotation, dtype=np.float64) @ FLIP
    euler = Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_euler("YXZ").reshape(*matrices.shape[:-2], 3)
    return euler * TURN_SIGNS


def rotation_of_turn(turn: ArrayLike) -> NDArray[np.float64]:
    """The cam2world rotation (3, 3) of yaw, pitch and roll (3,), radians: the inverse of
    `turn_of_rotation`."""
    return Rotation.from_euler("YXZ", np.asarray(turn) * TURN_SIGNS).as_matrix() @ FLIP


def see_through(camera: ArrayLike, crop: Square, window: Square) -> NDArray[np.float32]:
    """The label (25,) of the square `window` of a photo, given the label of its square `crop`: the same pose
    with other intrinsics."""
    pose, intrinsics = split_label(np.asarray(camera, dtype=np.float64))
    ratio = crop.side / window.side
    shift = ((crop.left - window.left) / window.side, (crop.top - window.top) / window.side)
    change = np.array([[ratio, 0.0, shift[0]], [0.0, ratio, shift[1]], [0.0, 0.0, 1.0]])
    return label(pose, change @ intrinsics)


def _pose(parameters: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """cam2world rotation (3, 3) and position (3,) from a rotation vector and the head's position in the
    camera's frame."""
    rotation = Rotation.from_rotvec(parameters[:3]).as_matrix()
    return rotation, -rotation @ parameters[3:]


def _orthographic_rotation(seen: NDArray[np.float64], face: NDArray[np.floating]) -> NDArray[np.float64]:
    """cam2world rotation (3, 3) of the scaled orthographic camera that fits the landmarks."""
    centred = face - face.mean(0)
    affine = np.linalg.lstsq(centred, (seen - seen.mean(0)) * (1, -1), rcond=None)[0].T  # (2, 3), y up
    right = affine[0] / max(np.linalg.norm(affine[0]), 1e-9)
    up = affine[1] - (affine[1] @ right) * right
    up = up / max(np.linalg.norm(up), 1e-9)
    world_to_view = np.stack([right, up, np.cross(right, up)])
    return world_to_view.T @ FLIP
