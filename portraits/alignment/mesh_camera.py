"""The camera of an EG3D crop from dense landmarks: a rigid fit of the canonical face, with a fixed
calibration."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.arrays import parse_npy
from portraits.alignment.camera import rotation_of_turn, turn_of_rotation
from portraits.cameras import FOCAL, RADIUS, label
from portraits.geometry import similarity

CANONICAL_FACE = Path(__file__).with_name("canonical_face.npy")


@dataclass(frozen=True)
class Calibration:
    """Correction of the landmark network's systematic error in head pose.

    With angles in radians, the corrected yaw is `yaw` · y + `yaw_cubed` · y³ for the fitted yaw y. Pitch and
    roll stay as they are.
    """

    yaw: float = 1.0
    yaw_cubed: float = 0.0

    def correct(self, turn: NDArray[np.float64]) -> NDArray[np.float64]:
        """The corrected yaw, pitch and roll (3,) in radians."""
        yaw, pitch, roll = turn
        return np.array([self.yaw * yaw + self.yaw_cubed * yaw**3, pitch, roll])


# Fitted, like the canonical face, on 24 captured people (`python -m benchmarks.mesh_fit`).
CALIBRATION = Calibration(yaw=0.935, yaw_cubed=0.152)


@cache
def canonical_face() -> NDArray[np.float64]:
    """The network's landmarks (468, 3) on a mean face, in EG3D's frame."""
    return parse_npy(CANONICAL_FACE.read_bytes()).astype(np.float64)


def camera_from_mesh(
    points: ArrayLike, face: NDArray[np.float64] | None = None, calibration: Calibration = CALIBRATION
) -> NDArray[np.float32]:
    """The EG3D label (25,) of a crop from its dense landmarks (468, 3), divided by the crop's side, depths
    included; `face` (468, 3) are their positions on a face, by default the canonical one.

    The fit uses the network's depths: perspective-n-point on the image points alone gives yaws with a spread
    that is half as large again.
    """
    face = canonical_face() if face is None else face
    seen = np.asarray(points, dtype=np.float64)
    ray = np.append((seen[:, :2].mean(0) - 0.5) / FOCAL, 1.0)
    turn = turn_of_rotation(fitted_rotation(seen, face))
    rotation = rotation_of_turn(calibration.correct(turn)) @ _turned_to(ray).T
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = _on_sphere(face.mean(0), rotation @ ray)
    return label(pose)


def fitted_rotation(seen: NDArray[np.float64], face: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation (3, 3) that best aligns landmarks (468, 3), depths included, with the face (468, 3)."""
    return np.asarray(similarity(seen, face)[1], dtype=np.float64)


def _turned_to(ray: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest rotation (3, 3) that turns the optical axis to a ray (3,)."""
    x, y, z = ray / np.linalg.norm(ray)
    return np.array(
        [[1 - x * x / (1 + z), -x * y / (1 + z), x], [-x * y / (1 + z), 1 - y * y / (1 + z), y], [-x, -y, z]]
    )


def _on_sphere(point: NDArray[np.float64], ray: NDArray[np.float64]) -> NDArray[np.float64]:
    """The position (3,) on EG3D's sphere from which a ray (3,) passes through a point (3,) inside it."""
    a, b, c = ray @ ray, point @ ray, point @ point - RADIUS**2
    return point - (b + np.sqrt(b * b - a * c)) / a * ray
