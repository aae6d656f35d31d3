"""Finding the face in an image once for all metrics that look at it."""

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
from portraits.alignment.align import Aligned, NoFaceError, align
from portraits.alignment.detection import FaceDetector
from portraits.pixels import to_images

CROP_SIDE = 224


@dataclass(frozen=True)
class Reading:
    """A face in an image: the `image` (S, S, 3) uint8 and what alignment found in it."""

    image: NDArray[np.uint8]
    aligned: Aligned


Readings = Sequence[Reading | None]


class FaceReader:
    """Finds the largest face of images with MTCNN, on the CPU; smaller images are searched enlarged."""

    def __init__(self) -> None:
        self.detector = FaceDetector()

    def read(self, images: Tensor) -> list[Reading | None]:
        """A reading of each of images (N, 3, S, S) in [-1, 1], None where no face is found; equal images have
        one between them."""
        found: dict[bytes, Reading | None] = {}
        pixels = to_images(images)
        for image in pixels:
            if (content := image.tobytes()) not in found:
                found[content] = self._read(image)
        return [found[image.tobytes()] for image in pixels]

    def readings(self, images: Tensor | Readings) -> Readings:
        """Images read, or readings as they are."""
        return self.read(images) if isinstance(images, Tensor) else images

    def _read(self, image: NDArray[np.uint8]) -> Reading | None:
        try:
            return Reading(image, align(Image.fromarray(image), CROP_SIDE, detector=self.detector))
        except NoFaceError:
            return None


class FaceMetric(PairMetric):
    """A metric of two faces. A pair without a face in both images cannot be scored; it is counted.

    State beside those of PairMetric, summed over processes: `faceless_truth`, in how many pairs the truth
    shows no face. `reader` may be shared between metrics.
    """

    faceless_truth: Tensor

    def __init__(self, weights: str | None = None, reader: FaceReader | None = None, **options: Any) -> None:
        super().__init__(weights, **options)
        self.reader = reader or FaceReader()
        self.add_state("faceless_truth", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def scores(self, images: Tensor | Readings, truth: Tensor | Readings) -> Tensor:
        """The scores (N, C) of images (N, 3, S, S) in [-1, 1], or of what was read of them; NaN where either
        shows no face."""
        return self.compare(self.reader.readings(images), self.reader.readings(truth))

    @abstractmethod
    def compare(self, images: Readings, truth: Readings) -> Tensor:
        """The scores (N, C) of readings; NaN where either is None."""

    def update(
        self, images: Tensor | Readings, truth: Tensor | Readings, *, scores: Tensor | None = None
    ) -> None:
        """Score pairs of images (N, 3, S, S) in [-1, 1] or of readings, or take the `scores` (N, C) of theirs
        that are known already."""
        found, true = self.reader.readings(images), self.reader.readings(truth)
        super().update(found, true, scores=scores)
        self.faceless_truth += sum(reading is None for reading in true)

    def summary(self) -> dict[str, float]:
        """The means by column, `<metric>_failures`, the pairs that could not be scored, and how many of them
        have no face in the truth: `<metric>_failures_of_truth`."""
        failures = {
            f"{self.label}_failures": float(self.failed),
            f"{self.label}_failures_of_truth": float(self.faceless_truth),
        }
        return super().summary() | failures
