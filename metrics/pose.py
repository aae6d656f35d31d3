"""POSE: whether the head is turned as it should be. N pairs; angles are (N, 3): yaw, pitch, roll."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from core.errors import InputError
from metrics.base import PairMetric, weights_for
from metrics.catalogue import MTCNN
from metrics.faces import FaceMetric, FaceReader, Readings
from metrics.landmarks import HEAD_CAMERAS, HeadCamera, five_points
from portraits.cameras import LABEL_SIZE, split_label

FLIP = np.diag([1.0, -1.0, -1.0])  # OpenCV's axes ↔ x right, y up, z towards the viewer
AXES = ("yaw", "pitch", "roll")


class POSE(FaceMetric):
    """Squared distance of Euler angles, radians, summed over yaw, pitch and roll (the paper's), and each
    angle's absolute error in degrees; 0 where images are equal.

    Cameras are solved from landmarks (`metrics.landmarks`), in the truth as in the image, so that
    what the landmarks get wrong cancels. `weights`: whose landmarks, "mtcnn" (five of them, the standard) or
    "dlib-68". Raises InputError where this machine lacks them.
    """

    symbol = "POSE"
    higher_is_better = False

    def __init__(self, weights: str | None = None, reader: FaceReader | None = None, **options: Any) -> None:
        super().__init__(weights_for(self.symbol, weights), reader, **options)
        self.camera_of = head_camera(self.weights)

    @property
    def columns(self) -> tuple[str, ...]:
        """The squared distance, and the errors by angle."""
        return angle_columns(self.label)

    def compare(self, images: Readings, truth: Readings) -> Tensor:
        """The scores (N, 4) of readings; NaN where either is None."""
        return angle_scores(*(head_angles(some, self.camera_of) for some in (images, truth)))


class CameraPOSE(PairMetric):
    """POSE against known cameras: the same scores of images beside EG3D labels (N, 25).

    An image without a face cannot be scored; it is counted. What landmarks get wrong is in these scores.
    `weights` as in POSE; the metric is called `POSE[label]`, or `POSE[dlib-68-label]`.
    """

    symbol = "POSE"
    higher_is_better = False

    def __init__(self, weights: str | None = None, reader: FaceReader | None = None, **options: Any) -> None:
        super().__init__(weights_for(self.symbol, weights), **options)
        self.reader = reader or FaceReader()
        self.camera_of = head_camera(self.weights)

    @property
    def label(self) -> str:
        """The metric's name, with whose landmarks where they are not the standard ones."""
        return "POSE[label]" if self.weights == MTCNN else f"POSE[{self.weights}-label]"

    @property
    def columns(self) -> tuple[str, ...]:
        """The squared distance, and the errors by angle."""
        return angle_columns(self.label)

    def scores(self, images: Tensor | Readings, truth: Tensor) -> Tensor:
        """The scores (N, 4) of images (N, 3, S, S) in [-1, 1], or of what was read of them, beside cameras
        (N, 25); NaN where there is no face."""
        found = head_angles(self.reader.readings(images), self.camera_of)
        return angle_scores(found, camera_angles(truth.double().cpu().numpy()))

    def summary(self) -> dict[str, float]:
        """The means by column, and `POSE[label]_failures`: how many images showed no face."""
        return super().summary() | {f"{self.label}_failures": float(self.failed)}


def head_camera(weights: str) -> HeadCamera:
    """Finds cameras by landmarks of this name. Raises InputError where there are none."""
    if weights not in HEAD_CAMERAS:
        raise InputError(f"POSE takes the landmarks {', '.join(HEAD_CAMERAS)}, not {weights!r}")
    return HEAD_CAMERAS[weights]()


def angle_columns(label: str) -> tuple[str, ...]:
    """The names of `angle_scores`."""
    return (label, *(f"{label}_{axis}_degrees" for axis in AXES))


def angle_scores(angles: NDArray[np.float64], truth: NDArray[np.float64]) -> Tensor:
    """The scores (N, 4) of angles (N, 3), radians, NaN where either has no face."""
    error = wrapped(angles - truth)
    squared = (error**2).sum(1, keepdims=True)
    return torch.from_numpy(np.concatenate([squared, np.degrees(np.abs(error))], 1)).float()


def camera_angles(labels: ArrayLike) -> NDArray[np.float64]:
    """Yaw, pitch and roll (N, 3), radians, of cameras (N, 25), from their rotations alone: how a head is
    turned does not depend on where in the image it is. Signs as in `portraits.cameras`."""
    poses = split_label(np.asarray(labels, dtype=np.float64).reshape(-1, LABEL_SIZE))[0]
    yaw, pitch, roll = Rotation.from_matrix(poses[:, :3, :3] @ FLIP).as_euler("YXZ").T
    return np.stack([yaw, -pitch, -roll], axis=1)


def head_angles(readings: Readings, camera_of: HeadCamera = five_points) -> NDArray[np.float64]:
    """Yaw, pitch and roll (N, 3), radians, of the cameras of faces; NaN where there is no face."""
    angles = np.full((len(readings), 3), np.nan)
    for row, reading in zip(angles, readings, strict=True):
        if reading is not None:
            row[:] = camera_angles(camera_of(reading))[0]
    return angles


def wrapped(radians: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles in [-π, π)."""
    return (radians + np.pi) % (2 * np.pi) - np.pi
