"""EG3D's five 3D landmarks, similarity transforms, rotations, and triangulation."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]

# Deep3DFaceRecon's five 3D landmarks, which define EG3D's crop: image-left eye, image-right eye, nose tip,
# mouth corners; x right, y up, z towards the viewer.
LANDMARKS_3D = np.array(
    [
        [-0.31149, 0.29036, 0.13378],
        [0.30980, 0.28972, 0.13180],
        [0.00325, -0.04618, 0.55244],
        [-0.25217, -0.38134, 0.22406],
        [0.24847, -0.38128, 0.22236],
    ]
)
# The same points in the world frame of EG3D's labels, by EG3D's conversion of poses to labels.
STANDARD_LANDMARKS = 0.27 * LANDMARKS_3D + (0.0, 0.006, 0.161)


def nearest_rotation(matrices: ArrayLike) -> Array:
    """The rotations (..., 3, 3) nearest to `matrices` (..., 3, 3) in the Frobenius norm."""
    u, _, vt = np.linalg.svd(np.asarray(matrices, dtype=np.float64))
    return np.asarray(u @ vt)


def rotation_error(matrices: ArrayLike) -> Array:
    """The largest entry (...) of |R R^T - I| for matrices R (..., 3, 3): 0 for rotations and reflections."""
    rotations = np.asarray(matrices)
    products = rotations @ np.swapaxes(rotations, -1, -2)
    return np.asarray(np.abs(products - np.eye(3)).max(axis=(-2, -1)))


def similarity(source: Array, target: Array) -> tuple[float, Array, Array]:
    """The least-squares scale, rotation (D, D) and translation (D,) from `source` (N, D) to `target` (N, D)
    (Umeyama 1991)."""
    mean_source, mean_target = source.mean(0), target.mean(0)
    centred, wanted = source - mean_source, target - mean_target
    u, spectrum, vt = np.linalg.svd(wanted.T @ centred)
    sign = np.ones(len(spectrum))
    sign[-1] = np.sign(np.linalg.det(u @ vt))
    rotation = u @ np.diag(sign) @ vt
    scale = float((spectrum * sign).sum() / (centred**2).sum())
    return scale, rotation, mean_target - scale * rotation @ mean_source


def triangulate(projections: ArrayLike, points: ArrayLike) -> Array:
    """Triangulate the world point (3,) with image points (N, 2) in N >= 2 cameras with projection matrices
    (N, 3, 4), by linear least squares."""
    matrices, seen = np.asarray(projections, dtype=np.float64), np.asarray(points, dtype=np.float64)
    rows = seen[:, :, None] * matrices[:, 2:3] - matrices[:, :2]
    rows = rows / np.linalg.norm(rows[..., :3], axis=-1, keepdims=True)
    homogeneous = np.linalg.svd(rows.reshape(-1, 4))[2][-1]
    return homogeneous[:3] / homogeneous[3]


def reproject(projections: ArrayLike, point: ArrayLike) -> Array:
    """Project a world point (3,) with projection matrices (N, 3, 4) to image points (N, 2)."""
    homogeneous = np.asarray(projections) @ np.append(np.asarray(point, dtype=np.float64), 1.0)
    return homogeneous[:, :2] / homogeneous[:, 2:]
