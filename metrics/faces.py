"""Face detection, shared by all metrics of faces. N images, S image side."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metrics.base import PairMetric
from portraits.alignment import mesh
from portraits.alignment.align import camera_of_face, find_face
from portraits.alignment.crop import Square, square_around
from portraits.alignment.detection import Face, FaceDetector, face_of_mesh, upright_region
from portraits.cameras import project
from portraits.geometry import STANDARD_LANDMARKS
from portraits.pixels import to_images

# size of a face's box relative to the larger extent of its five landmarks
BOX_OF_FIVE = np.array([1.65, 2.05])


@dataclass(frozen=True)
class Reading:
    """A face in an image.

    Args:
        image: (S, S, 3) uint8
        face: the face, in pixels of the image
        by_camera: whether it was located from the image's camera, as no detector found it or its dense
            landmarks were unreliable
    """

    image: NDArray[np.uint8]
    face: Face
    by_camera: bool = False

    @property
    def box(self) -> NDArray[np.float64]:
        """The face's box (4,): left, top, right, bottom."""
        return self.face.box

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """The face's five landmarks (5, 2)."""
        return self.face.landmarks

    @property
    def unseen(self) -> bool:
        """Whether nothing was detected in the image, and the landmarks follow from the camera alone."""
        return self.by_camera and self.face.mesh is None

    @property
    def square(self) -> Square:
        """EG3D's crop of the face."""
        return square_around(self.face.landmarks, len(self.image))

    @property
    def camera(self) -> NDArray[np.float32]:
        """The EG3D label (25,) of the face's crop, estimated from the detected landmarks."""
        return camera_of_face(self.face, self.square)


Readings = Sequence[Reading | None]


class FaceReader:
    """Detects the largest face of images, on the CPU; small images are enlarged first."""

    def __init__(self) -> None:
        self.detector = FaceDetector()

    def read(self, images: Tensor, cameras: Tensor | None = None) -> list[Reading | None]:
        """The face in each of images (N, 3, S, S) in [-1, 1], None if none is found. Equal images are
        processed once.

        With `cameras` (N, 25), the EG3D labels that the images were generated for, a face that no detector
        finds or whose dense landmarks are unreliable is searched where the camera projects it.
        """
        labels = [None] * len(images) if cameras is None else list(cameras.double().cpu().numpy())
        found: dict[tuple[bytes, bytes], Reading | None] = {}
        readings = []
        for image, label in zip(to_images(images), labels, strict=True):
            content = image.tobytes(), b"" if label is None else label.tobytes()
            if content not in found:
                found[content] = self._read(image, label)
            readings.append(found[content])
        return readings

    def readings(self, images: Tensor | Readings, cameras: Tensor | None = None) -> Readings:
        """`images` if they are readings already, otherwise `read(images, cameras)`."""
        return self.read(images, cameras) if isinstance(images, Tensor) else images

    def _read(self, image: NDArray[np.uint8], camera: NDArray[np.float64] | None) -> Reading | None:
        face = find_face(Image.fromarray(image), detector=self.detector)
        doubted = face is None or (mesh.available() and (face.mesh is None or face.score < mesh.FACE))
        if camera is not None and doubted:
            there = face_at_camera(image, camera)
            if face is None or there.mesh is not None:
                return Reading(image, there, by_camera=True)
        return None if face is None else Reading(image, face)


def face_at_camera(image: NDArray[np.uint8], camera: NDArray[np.float64]) -> Face:
    """The face of an image (S, S, 3) at the position given by its camera (25,). Landmarks are detected there;
    if that fails, they are EG3D's standard ones, projected."""
    five = project(STANDARD_LANDMARKS, camera).astype(np.float64) * len(image) - 0.5
    middle, extent = five.mean(0), np.ptp(five, axis=0).max() * BOX_OF_FIVE
    box = np.concatenate([middle - extent / 2, middle + extent / 2])
    if mesh.available():
        found = mesh.find_mesh(image, upright_region(five, box))
        if found.score >= mesh.FACE:
            return face_of_mesh(found)
    return Face(box, five, 0.0)


class FaceMetric(PairMetric):
    """Base class of metrics of two faces. Pairs in which either image has no face count as failures.

    States besides those of PairMetric, summed over processes: `faceless_truth`, the number of pairs without a
    face in the truth; `by_camera`, the number with a face located from its camera. `reader` may be shared
    between metrics.
    """

    faceless_truth: Tensor
    by_camera: Tensor

    def __init__(self, weights: str | None = None, reader: FaceReader | None = None, **options: Any) -> None:
        super().__init__(weights, **options)
        self.reader = reader or FaceReader()
        self.add_state("faceless_truth", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("by_camera", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def scores(self, images: Tensor | Readings, truth: Tensor | Readings) -> Tensor:
        """The scores (N, C) of images (N, 3, S, S) in [-1, 1] or of their readings; NaN if either has no
        face."""
        return self.compare(self.reader.readings(images), self.reader.readings(truth))

    @abstractmethod
    def compare(self, images: Readings, truth: Readings) -> Tensor:
        """The scores (N, C) of readings; NaN if either is None."""

    def update(
        self, images: Tensor | Readings, truth: Tensor | Readings, *, scores: Tensor | None = None
    ) -> None:
        """Add pairs of images (N, 3, S, S) in [-1, 1] or of readings, with their `scores` (N, C) if already
        computed."""
        found, true = self.reader.readings(images), self.reader.readings(truth)
        scores = self.compare(found, true) if scores is None else scores
        self.accumulate(scores)
        for first, second, failed in zip(found, true, scores.isnan().any(1).tolist(), strict=True):
            self.faceless_truth += failed and (second is None or second.unseen)
            self.by_camera += any(reading is not None and reading.by_camera for reading in (first, second))

    def summary(self) -> dict[str, float]:
        """The means by column, and counts of pairs: `<metric>_failures` that could not be scored, of these
        `<metric>_failures_of_truth` without a face in the truth, and `<metric>_by_camera`."""
        counts = {
            f"{self.label}_failures": float(self.failed),
            f"{self.label}_failures_of_truth": float(self.faceless_truth),
            f"{self.label}_by_camera": float(self.by_camera),
        }
        return super().summary() | counts
