"""POSE: the error of the head's pose. N pairs; angles are (N, 3): yaw, pitch, roll."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from metrics.base import PairMetric, weights_for
from metrics.catalogue import STANDARD, metric_name
from metrics.faces import FaceMetric, FaceReader, Readings
from metrics.landmarks import HeadCameras, head_cameras
from portraits.alignment.camera import turn_of_rotation
from portraits.cameras import LABEL_SIZE, split_label

AXES = ("yaw", "pitch", "roll")


class POSE(FaceMetric):
    """Squared distance of Euler angles in radians, summed over yaw, pitch and roll (as in the paper), and the
    absolute error of each angle in degrees; 0 for equal images.

    Poses are estimated from landmarks (`metrics.landmarks`) in both images, so that systematic errors cancel.

    Args:
        weights: the landmarks: "mediapipe-468" (the standard), "mtcnn-5", "dlib-68", or "deep3d" for a
            checkpoint that the user provides, as "deep3d=PATH" or in the cache folder; by default the best
            available
        reader: the face detector, which may be shared between metrics

    Raises InputError if the weights are not available.
    """

    symbol = "POSE"
    higher_is_better = False

    def __init__(self, weights: str | None = None, reader: FaceReader | None = None, **options: Any) -> None:
        chosen = weights_for(self.symbol, weights)
        super().__init__(chosen, reader, **options)
        self.cameras_of = head_cameras(chosen)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the squared distance and of each angle's error."""
        return angle_columns(self.label)

    def compare(self, images: Readings, truth: Readings) -> Tensor:
        """The scores (N, 4) of readings; NaN if either is None."""
        return angle_scores(*(head_angles(readings, self.cameras_of) for readings in (images, truth)))


class CameraPOSE(PairMetric):
    """POSE against known cameras: the same scores, of images and EG3D labels (N, 25).

    Images without a face count as failures. Systematic errors of the landmarks are part of these scores.
    `weights` are as in POSE. The metric is called `POSE[label]`, or with non-standard landmarks
    `POSE[dlib-68-label]`.
    """

    symbol = "POSE"
    higher_is_better = False

    def __init__(self, weights: str | None = None, reader: FaceReader | None = None, **options: Any) -> None:
        chosen = weights_for(self.symbol, weights)
        super().__init__(chosen, **options)
        self.reader = reader or FaceReader()
        self.cameras_of = head_cameras(chosen)

    @property
    def label(self) -> str:
        """The metric's name, which includes the landmarks unless they are the standard ones."""
        if self.weights == STANDARD[self.symbol]:
            return f"{self.symbol}[label]"
        return f"{metric_name(self.symbol, self.weights).removesuffix(']')}-label]"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the squared distance and of each angle's error."""
        return angle_columns(self.label)

    def scores(self, images: Tensor | Readings, truth: Tensor) -> Tensor:
        """The scores (N, 4) of images (N, 3, S, S) in [-1, 1], or of their readings, against cameras (N, 25);
        NaN if there is no face."""
        found = head_angles(self.reader.readings(images), self.cameras_of)
        return angle_scores(found, camera_angles(truth.double().cpu().numpy()))

    def summary(self) -> dict[str, float]:
        """The means by column, and `POSE[label]_failures`, the number of images without a face."""
        return super().summary() | {f"{self.label}_failures": float(self.failed)}


def angle_columns(label: str) -> tuple[str, ...]:
    """Names of the columns of `angle_scores`."""
    return (label, *(f"{label}_{axis}_degrees" for axis in AXES))


def angle_scores(angles: NDArray[np.float64], truth: NDArray[np.float64]) -> Tensor:
    """The scores (N, 4) of angles (N, 3), radians; NaN if either is NaN."""
    error = wrapped(angles - truth)
    squared = (error**2).sum(1, keepdims=True)
    return torch.from_numpy(np.concatenate([squared, np.degrees(np.abs(error))], 1)).float()


def camera_angles(labels: ArrayLike) -> NDArray[np.float64]:
    """Yaw, pitch and roll (N, 3), radians, of cameras (N, 25), from their rotations alone, so that the head's
    position in the image does not matter. Signs as in `portraits.cameras`."""
    poses = split_label(np.asarray(labels, dtype=np.float64).reshape(-1, LABEL_SIZE))[0]
    return turn_of_rotation(poses[:, :3, :3])


def head_angles(readings: Readings, cameras_of: HeadCameras) -> NDArray[np.float64]:
    """Yaw, pitch and roll (N, 3), radians, of the cameras of faces; NaN if no face or landmarks are found."""
    angles = np.full((len(readings), 3), np.nan)
    distinct = {id(reading): reading for reading in readings if reading is not None}
    cameras = dict(zip(distinct, cameras_of(list(distinct.values())), strict=True))
    for row, reading in zip(angles, readings, strict=True):
        if reading is not None and np.isfinite(cameras[id(reading)]).all():
            row[:] = camera_angles(cameras[id(reading)])[0]
    return angles


def wrapped(radians: NDArray[np.float64]) -> NDArray[np.float64]:
    """Wrap angles to [-π, π)."""
    return (radians + np.pi) % (2 * np.pi) - np.pi
