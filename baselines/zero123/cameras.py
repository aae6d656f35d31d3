"""Conversion of EG3D labels to Zero-1-to-3's relative cameras: a target relative to the source, around the
object.

Shape letters: K views.
"""

import numpy as np
from numpy.typing import NDArray

from baselines.base import Cameras
from portraits.cameras import PIVOT, split_label


def spherical(labels: Cameras) -> NDArray[np.float64]:
    """Polar angle from the top, azimuth to +x, both in radians, and distance (K, 3) of EG3D labels (K, 25),
    about the point that their cameras look at."""
    positions = split_label(labels)[0][..., :3, 3].astype(np.float64) - PIVOT
    x, y, z = positions.T
    distances = np.linalg.norm(positions, axis=1)
    return np.stack([np.arccos(y / distances), np.arctan2(x, z), distances], axis=1)


def relative_pose(source: Cameras, targets: Cameras, head_size: float) -> NDArray[np.float32]:
    """Zero-1-to-3's encoding (K, 4) of target cameras (K, 25) relative to a source (25,): the change of the
    polar angle in radians, sine and cosine of that of the azimuth, and the change of the distance in units of
    `head_size`. Roll and field of view are not encoded."""
    change = spherical(targets) - spherical(source[None])
    return pose_of(change[:, 0], change[:, 1], change[:, 2] / head_size)


def pose_of(
    polar: NDArray[np.float64], azimuth: NDArray[np.float64], radius: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The four numbers (K, 4) of changes (K,) in radians and units of the object's size."""
    return np.stack([polar, np.sin(azimuth), np.cos(azimuth), radius], axis=1).astype(np.float32)
