"""The canonical head frame in a calibrated scene: five landmarks of many views → where the head is and how it
is turned."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portraits.geometry import STANDARD_LANDMARKS, reproject, similarity, triangulate

Array = NDArray[np.floating]

FACE_ERROR = 0.35  # of the landmarks' spread in an image: where a view no longer agrees with the others
MAX_MISFIT = 0.04  # canonical units: a face whose landmarks are further from the standard ones is none


class NoHeadError(ValueError):
    """The views do not agree on a head."""


@dataclass(frozen=True)
class HeadFrame:
    """The similarity from world to canonical head frame: scale · rotation · x + translation. `views` agreed
    on it; `misfit` is the landmarks' root mean square distance from the standard ones, canonical units."""

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
        """A camera's cam2world (4, 4) in the canonical frame; the scale moves the camera, and turns
        nothing."""
        seen = np.eye(4)
        seen[:3, :3] = self.rotation @ np.asarray(pose)[:3, :3]
        seen[:3, 3] = self.canonical(np.asarray(pose)[None, :3, 3])[0]
        return seen


def locate_head(
    projections: Mapping[str, Array], landmarks: Mapping[str, Array], min_views: int = 3
) -> HeadFrame:
    """The head frame from projection matrices (3, 4) and five landmarks (5, 2), in pixels, by view.

    Every pair of views proposes five points in space; the proposal that the most views agree with wins, the
    landmarks are triangulated again from all those views, and a similarity brings them onto the standard
    ones. Raises NoHeadError where fewer than `min_views` views agree, or what they agree on is no face."""
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
    """The views that agree with the best pair's five points."""
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
