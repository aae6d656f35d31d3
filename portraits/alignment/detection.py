"""Face detection with five landmarks (MTCNN, whose weights come with its package) and, if MediaPipe's
networks are available, dense ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from portraits.alignment import mesh
from portraits.alignment.region import Region

DETECTION_SIDE = 640  # larger images are reduced to this size: faces in portraits are large
SMALL_SIDE = 224  # smaller images are enlarged to this size: MTCNN detects faces of 20 pixels and more
MIN_FACE = 20
DOUBTFUL = 0.01  # least score of dense landmarks in a face that MTCNN has detected
LEAST_OVERLAP = 0.25  # intersection over union from which two detectors' boxes are of one face
# Each of the five points is the mean of these dense ones. On captured people they are closer to EG3D's than
# MTCNN's are.
FIVE_OF_MESH = ((33, 133, 159, 145), (263, 362, 386, 374), (4,), (61,), (291,))
# MTCNN's box relative to the bounding box of the dense landmarks: size and shift, in units of the latter's
# size.
BOX_SCALE, BOX_SHIFT = np.array([1.03, 1.2]), np.array([0.0, -0.05])


@dataclass(frozen=True)
class Face:
    """One face, in pixels of the image (pixel centres are whole numbers).

    Args:
        box: (4,) left, top, right, bottom
        landmarks: (5, 2) image-left eye, image-right eye, nose tip, image-left and image-right mouth corner
        score: confidence of the network that detected it, in [0, 1]
        mesh: the dense landmarks (468, 3), the third coordinate their relative depth; None if not found
    """

    box: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    score: float
    mesh: NDArray[np.float64] | None = None

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        left, top, right, bottom = self.box
        return float(max(right - left, 0) * max(bottom - top, 0))


class FaceDetector:
    """Deterministic face detection.

    Args:
        side: larger images are reduced to this side
        dense: also find dense landmarks, if the networks are available, and derive the five from them;
            otherwise the five are MTCNN's
    """

    def __init__(self, side: int = DETECTION_SIDE, dense: bool = True) -> None:
        self.side = side
        self.dense = dense

    def faces(self, image: Image.Image) -> list[Face]:
        """All faces of an RGB image, the largest first."""
        found = self._by_mtcnn(image)
        if not self._has_mesh():
            return found
        pixels = np.asarray(image)
        refined = [_refined(pixels, face) for face in found]
        return sorted(refined, key=lambda face: face.area, reverse=True) or _by_mediapipe(pixels)

    def largest(self, image: Image.Image) -> Face | None:
        """The largest face of an RGB image, or None.

        MediaPipe's detector, which is fast and finds large faces at any tilt, is tried first, then MTCNN.
        """
        if self._has_mesh():
            found = _by_mediapipe(np.asarray(image))
            if found:
                return found[0]
        return choose(self.faces(image))

    def _has_mesh(self) -> bool:
        return self.dense and mesh.available()

    def _by_mtcnn(self, image: Image.Image) -> list[Face]:
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


def face_of_mesh(found: mesh.Mesh) -> Face:
    """A face from its dense landmarks, with five landmarks derived from them and a box like MTCNN's."""
    points = found.points[:, :2]
    five = np.stack([points[list(vertices)].mean(0) for vertices in FIVE_OF_MESH])
    low, high = points.min(0), points.max(0)
    middle, extent = (low + high) / 2, (high - low) * BOX_SCALE
    middle = middle + BOX_SHIFT * (high - low)
    box = np.concatenate([middle - extent / 2, middle + extent / 2])
    return Face(box, five, found.score, found.points)


def upright_region(landmarks: NDArray[np.float64], box: NDArray[np.float64]) -> Region:
    """The region to search for dense landmarks, given five (5, 2) and a box (4,): around the box, rotated so
    that the mouth is below the eyes (in a profile, the line between the eyes does not give the roll)."""
    across, down = landmarks[3:].mean(0) - landmarks[:2].mean(0)
    side = mesh.MARGIN * float(max(box[2] - box[0], box[3] - box[1]))
    return Region((box[:2] + box[2:]) / 2, side, float(np.arctan2(-across, down)))


def _refined(image: NDArray[np.uint8], face: Face) -> Face:
    """Add dense landmarks to a face of MTCNN; unchanged if none are found within it."""
    found = mesh.find_mesh(image, upright_region(face.landmarks, face.box))
    dense = face_of_mesh(found)
    same = found.score >= DOUBTFUL and overlap(dense.box, face.box) > LEAST_OVERLAP
    return dense if same else face


def _by_mediapipe(image: NDArray[np.uint8]) -> list[Face]:
    """The faces that MediaPipe's detector finds and its landmark network confirms, the largest first."""
    found = [mesh.find_mesh(image, region) for region in mesh.detect(image)]
    faces = [face_of_mesh(dense) for dense in found if dense.score >= mesh.FACE]
    return sorted(faces, key=lambda face: face.area, reverse=True)


def choose(faces: Sequence[Face], box: Sequence[float] | None = None) -> Face | None:
    """The largest face, or with `box` (left, top, right, bottom) the one of the largest intersection over
    union with it; None if there is none."""
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
    """MTCNN, imported on first use, so that handling crops and cameras does not import torch."""
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise InputError("face detection needs facenet-pytorch: pip install -e '.[capture]'") from error
    return MTCNN(min_face_size=MIN_FACE, keep_all=True, post_process=False, device="cpu").eval()
