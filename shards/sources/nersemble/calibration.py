"""camera_params.json: where the cameras of a participant stand, and through what they look."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FULL_SIZE = (2200, 3208)  # width and height of the sensor, to which shared intrinsics refer
MAX_BYTES = 1 << 20
OFF_CENTRE = 0.25  # a principal point is in the middle of its image but for this share


class CalibrationError(ValueError):
    """A participant's calibration cannot be used."""


@dataclass(frozen=True)
class PinholeCamera:
    """OpenCV's camera in metres: `world_to_camera` (4, 4), `intrinsics` (3, 3) in pixels whose centres are
    whole numbers, of an image of `size` (width, height) where that is known."""

    world_to_camera: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    size: tuple[int, int] | None = None

    @property
    def pose(self) -> NDArray[np.float64]:
        """cam2world (4, 4)."""
        return np.asarray(np.linalg.inv(self.world_to_camera), dtype=np.float64)

    @property
    def projection(self) -> NDArray[np.float64]:
        """World points to pixels (3, 4)."""
        return self.intrinsics @ self.world_to_camera[:3]

    def at(self, width: int, height: int) -> "PinholeCamera":
        """The same camera for images of another resolution. Raises CalibrationError where the intrinsics
        cannot belong to an image of this shape."""
        full = self.size or _refers_to(self.intrinsics, width, height)
        scale = np.array([width / full[0], height / full[1]])
        if abs(scale[0] / scale[1] - 1) > 0.02:
            raise CalibrationError(
                f"images of {width}x{height} are not the calibrated {full[0]}x{full[1]} scaled down"
            )
        intrinsics = self.intrinsics.copy()
        intrinsics[:2, :2] *= scale[:, None]
        intrinsics[:2, 2] = (self.intrinsics[:2, 2] + 0.5) * scale - 0.5
        return PinholeCamera(self.world_to_camera, intrinsics, (width, height))


def load_cameras(path: Path) -> dict[str, PinholeCamera]:
    """The cameras of a participant by serial number. Raises CalibrationError, which names what is wrong."""
    if path.stat().st_size > MAX_BYTES:
        raise CalibrationError(f"{path.name} is larger than a calibration can be")
    try:
        values = json.loads(path.read_bytes())
        shared, poses = values["intrinsics"], values["world_2_cam"]
        size = (
            (int(values["width"]), int(values["height"]))
            if "width" in values and "height" in values
            else None
        )
        return {
            str(serial): _camera(
                str(serial), pose, shared[serial] if isinstance(shared, dict) else shared, size
            )
            for serial, pose in poses.items()
        }
    except CalibrationError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CalibrationError(f"{path.name} is no calibration of NeRSemble ({error!r})") from error


def _camera(serial: str, pose: object, intrinsics: object, size: tuple[int, int] | None) -> PinholeCamera:
    world_to_camera = np.array(pose, dtype=np.float64)
    matrix = np.array(intrinsics, dtype=np.float64)
    if world_to_camera.shape != (4, 4) or matrix.shape != (3, 3):
        raise CalibrationError(f"camera {serial} is not a 4x4 pose with 3x3 intrinsics")
    rotation = world_to_camera[:3, :3]
    rigid = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-2 and np.linalg.det(rotation) > 0
    rigid = rigid and np.abs(world_to_camera[3] - (0, 0, 0, 1)).max() < 1e-6
    finite = np.isfinite(world_to_camera).all() and np.isfinite(matrix).all()
    if not (finite and rigid and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise CalibrationError(f"camera {serial} is no rigid camera")
    u, _, vt = np.linalg.svd(rotation)
    world_to_camera[:3, :3] = u @ vt
    return PinholeCamera(world_to_camera, matrix, size)


def _refers_to(intrinsics: NDArray[np.float64], width: int, height: int) -> tuple[int, int]:
    """The image size that intrinsics belong to: the image's own, or the sensor's, told by the principal
    point."""
    for size in ((width, height), FULL_SIZE):
        if np.abs(2 * intrinsics[:2, 2] / size - 1).max() < OFF_CENTRE:
            return size
    x, y = intrinsics[:2, 2]
    raise CalibrationError(
        f"the principal point {x:.0f}, {y:.0f} is the middle of neither {width}x{height} nor the sensor"
    )
