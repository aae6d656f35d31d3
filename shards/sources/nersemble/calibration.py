"""camera_params.json: poses and intrinsics of a participant's cameras."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portraits.cameras import MAX_ROTATION_ERROR
from portraits.geometry import nearest_rotation, rotation_error

FULL_SIZE = (2200, 3208)  # width and height of the sensor in pixels, which shared intrinsics refer to
MAX_BYTES = 1 << 20
MAX_OFF_CENTRE = 0.25  # distance of a principal point from the middle, relative to half the image


class CalibrationError(ValueError):
    """The calibration of a participant or of a camera cannot be used."""


@dataclass(frozen=True)
class PinholeCamera:
    """A camera in OpenCV's convention, in metres.

    `world_to_camera` is (4, 4); `intrinsics` (3, 3) are in pixels, with pixel centres at whole numbers, of an
    image of `size` (width, height), if known.
    """

    world_to_camera: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    size: tuple[int, int] | None = None

    @property
    def pose(self) -> NDArray[np.float64]:
        """cam2world (4, 4)."""
        return np.asarray(np.linalg.inv(self.world_to_camera), dtype=np.float64)

    @property
    def projection(self) -> NDArray[np.float64]:
        """The projection (3, 4) of world points to pixels."""
        return self.intrinsics @ self.world_to_camera[:3]

    def at(self, width: int, height: int) -> "PinholeCamera":
        """The same camera for images of another resolution.

        Raises CalibrationError if the intrinsics cannot belong to an image of this shape.
        """
        full = self.size or _calibrated_size(self.intrinsics, width, height)
        scale = np.array([width / full[0], height / full[1]])
        if abs(scale[0] / scale[1] - 1) > 0.02:
            raise CalibrationError(
                f"images of {width}x{height} are not the calibrated {full[0]}x{full[1]} scaled down"
            )
        intrinsics = self.intrinsics.copy()
        intrinsics[:2, :2] *= scale[:, None]
        intrinsics[:2, 2] = (self.intrinsics[:2, 2] + 0.5) * scale - 0.5
        return PinholeCamera(self.world_to_camera, intrinsics, (width, height))


@dataclass(frozen=True)
class Calibration:
    """The cameras of a participant by serial number, and the faults of those that cannot be used."""

    cameras: dict[str, PinholeCamera]
    faults: dict[str, str]


def load_calibration(path: Path) -> Calibration:
    """Read a camera_params.json. Raises CalibrationError if none of its cameras can be used."""
    if path.stat().st_size > MAX_BYTES:
        raise CalibrationError(f"{path.name} is larger than a calibration can be")
    cameras: dict[str, PinholeCamera] = {}
    faults: dict[str, str] = {}
    try:
        values = json.loads(path.read_bytes())
        size = _recorded_size(values)
        for serial, pose in values["world_2_cam"].items():
            try:
                cameras[serial] = _camera(pose, _intrinsics(values["intrinsics"], serial), size)
            except CalibrationError as error:
                faults[serial] = str(error)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CalibrationError(f"{path.name} is no calibration of NeRSemble ({error!r})") from error
    if not cameras:
        reason = next(iter(faults.values()), "it lists no cameras")
        raise CalibrationError(f"{path.name} has no usable camera: {reason}")
    return Calibration(cameras, faults)


def _recorded_size(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height that the intrinsics refer to, if recorded in the file."""
    if "width" in values and "height" in values:
        return int(values["width"]), int(values["height"])
    return None


def _intrinsics(values: Any, serial: str) -> Any:
    """The intrinsics of one camera: shared by all, or listed by serial number, as in the benchmark."""
    if isinstance(values, dict):
        if serial not in values:
            raise CalibrationError("its intrinsics are missing")
        return values[serial]
    return values


def _camera(pose: object, intrinsics: object, size: tuple[int, int] | None) -> PinholeCamera:
    try:
        world_to_camera = np.array(pose, dtype=np.float64)
        matrix = np.array(intrinsics, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise CalibrationError("it is not a 4x4 pose with 3x3 intrinsics") from error
    if world_to_camera.shape != (4, 4) or matrix.shape != (3, 3):
        raise CalibrationError("it is not a 4x4 pose with 3x3 intrinsics")
    rotation = world_to_camera[:3, :3]
    rigid = rotation_error(rotation) < MAX_ROTATION_ERROR and np.linalg.det(rotation) > 0
    rigid = rigid and np.abs(world_to_camera[3] - (0, 0, 0, 1)).max() < 1e-6
    finite = np.isfinite(world_to_camera).all() and np.isfinite(matrix).all()
    if not (finite and rigid and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise CalibrationError("it is no rigid camera")
    world_to_camera[:3, :3] = nearest_rotation(rotation)
    return PinholeCamera(world_to_camera, matrix, size)


def _calibrated_size(intrinsics: NDArray[np.float64], width: int, height: int) -> tuple[int, int]:
    """The image size that intrinsics refer to: the image's own or the sensor's, according to the principal
    point."""
    for size in ((width, height), FULL_SIZE):
        if np.abs(2 * intrinsics[:2, 2] / size - 1).max() < MAX_OFF_CENTRE:
            return size
    x, y = intrinsics[:2, 2]
    raise CalibrationError(
        f"the principal point {x:.0f}, {y:.0f} is the centre of neither {width}x{height} nor the sensor"
    )
