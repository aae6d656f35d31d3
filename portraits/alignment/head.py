"""Estimation of the canonical head frame in a calibrated scene from five landmarks in several views."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portraits.geometry import STANDARD_LANDMARKS, reproject, similarity, triangulate

Array = NDArray[np.floating]

# largest reprojection error of a view that agrees with the others, of the landmarks' spread
FACE_ERROR = 0.35
MAX_MISFIT = 0.04  # largest distance of a face's landmarks from the standard ones, canonical units


class NoHeadError(ValueError):
    """The views do not agree on a head."""


@dataclass(frozen=True)
class HeadFrame:
    """The similarity from world to canonical head frame: scale · rotation · x + translation.

    `views` are the views that it was estimated from; `misfit` is the root mean square distance of the
    landmarks from the standard ones in canonical units.
    """

    scale: float
    rotation: Array
    translation: Array
    views: int = 0
    misfit: float = 0.0

    def canonical(self, points: ArrayLike) -> Array:
        """World points (N, 3) in the canonical frame."""
        return self.scale * np.asarray(points, dtype=np.float64) @ self.rotation.T + self.translation

    def world(self, points: ArrayLike) -> Array:
        """Canonical points (N, 3) in the world."""
        return (np.asarray(points, dtype=np.float64) - self.translation) @ self.rotation / self.scale

    def camera(self, pose: ArrayLike) -> Array:
        """A camera's cam2world (4, 4) in the canonical frame; its rotation stays orthonormal."""
        seen = np.eye(4)
        seen[:3, :3] = self.rotation @ np.asarray(pose)[:3, :3]
        seen[:3, 3] = self.canonical(np.asarray(pose)[None, :3, 3])[0]
        return seen


def locate_head(
    projections: Mapping[str, Array], landmarks: Mapping[str, Array], min_views: int = 3
) -> HeadFrame:
    """The head frame from projection matrices (3, 4) and five landmarks (5, 2), in pixels, by view.

    Each pair of views is triangulated; the pair that most views agree with is chosen, the landmarks are
    triangulated again from all these views, and a similarity is fitted from them to the standard ones. Raises
    NoHeadError if fewer than `min_views` views agree, or if the landmarks do not fit a face."""
    names = sorted(set(projections) & set(landmarks))
    if len(names) < min_views:
        raise NoHeadError("too few views see the face")
    matrices = np.stack([projections[name] for name in names])
    seen = np.stack([np.asarray(landmarks[name], dtype=np.float64) for name in names])
    spread = np.sqrt(((seen - seen.mean(1, keepdims=True)) ** 2).sum(2).mean(1))
    agreeing = _consensus(matrices, seen, spread)
    if len(agreeing) < min_views:
        raise NoHeadError("the views that see the face do not agree on where it is")
    points = _points(matrices[agreeing], seen[agreeing])
    scale, rotation, translation = similarity(points, STANDARD_LANDMARKS)
    frame = HeadFrame(scale, rotation, translation)
    misfit = float(np.sqrt(((frame.canonical(points) - STANDARD_LANDMARKS) ** 2).sum(1).mean()))
    if misfit > MAX_MISFIT:
        raise NoHeadError("the landmarks found are not those of a face")
    return HeadFrame(scale, rotation, translation, len(agreeing), misfit)


def _points(matrices: Array, seen: Array) -> Array:
    return np.stack([triangulate(matrices, seen[:, i]) for i in range(seen.shape[1])])


def _consensus(matrices: Array, seen: Array, spread: Array) -> list[int]:
    """Indices of the views that agree with the best pair's five points."""
    best: list[int] = []
    best_error = np.inf
    for pair in combinations(range(len(matrices)), 2):
        points = _points(matrices[list(pair)], seen[list(pair)])
        if not np.isfinite(points).all():
            continue
        shown = np.stack([reproject(matrices, point) for point in points], axis=1)
        error = np.sqrt(((shown - seen) ** 2).sum(2).mean(1)) / spread
        agreeing = np.flatnonzero(error < FACE_ERROR).tolist()
        total = float(error[agreeing].mean()) if agreeing else np.inf
        if (len(agreeing), -total) > (len(best), -best_error):
            best, best_error = agreeing, total
    return best
