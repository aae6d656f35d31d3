"""Faces and their five landmarks (MTCNN, whose weights come inside its package)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError

DETECTION_SIDE = 640  # larger images are searched at this size: faces for portraits are large
SMALL_SIDE = 224  # smaller ones at this: MTCNN looks for faces of 20 pixels and more
MIN_FACE = 20


@dataclass(frozen=True)
class Face:
    """One face: box (4,) left, top, right, bottom; landmarks (5, 2): image-left eye, image-right eye, nose
    tip, image-left and image-right mouth corner. Pixels of the image searched; `score` in [0, 1]."""

    box: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    score: float

    @property
    def area(self) -> float:
        """Pixels of the box."""
        left, top, right, bottom = self.box
        return float(max(right - left, 0) * max(bottom - top, 0))


class FaceDetector:
    """Finds faces, the same in the same image. `side`: images are searched at most this large."""

    def __init__(self, side: int = DETECTION_SIDE) -> None:
        self.side = side

    def faces(self, image: Image.Image) -> list[Face]:
        """The faces of an RGB image, the largest first; none where there are none."""
        scale = min(max(1.0, SMALL_SIDE / min(image.size)), self.side / max(image.size))
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        if min(size) < MIN_FACE:
            return []
        searched = image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
        ratio = np.divide(image.size, size)
        boxes, scores, points = _network().detect(np.asarray(searched), landmarks=True)
        if boxes is None:
            return []
        found = [
            Face(
                np.asarray(box, dtype=np.float64) * np.tile(ratio, 2),
                np.asarray(landmarks, dtype=np.float64) * ratio,
                float(score),
            )
            for box, landmarks, score in zip(boxes, points, scores, strict=True)
        ]
        return sorted(found, key=lambda face: face.area, reverse=True)


def choose(faces: Sequence[Face], box: Sequence[float] | None = None) -> Face | None:
    """The largest face, or the one that overlaps `box` (left, top, right, bottom) most, by intersection over
    union; None where none does."""
    if box is None:
        return max(faces, key=lambda face: face.area, default=None)
    best = max(faces, key=lambda face: overlap(face.box, box), default=None)
    return best if best is not None and overlap(best.box, box) > 0 else None


def overlap(first: Sequence[float] | NDArray, second: Sequence[float] | NDArray) -> float:
    """Intersection over union of two boxes."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    common = sides.prod()
    return float(common / max((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common, 1e-9))


@cache
def _network() -> Any:
    """MTCNN, imported when it is needed: what only handles crops and cameras does without torch."""
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise InputError("finding faces takes the package facenet-pytorch: see the README's setup") from error
    return MTCNN(min_face_size=MIN_FACE, keep_all=True, post_process=False, device="cpu").eval()
