"""Equal images pass the face detector and the recogniser once."""

import numpy as np
import pytest
import torch

from metrics import ID
from metrics.catalogue import CATALOGUE
from metrics.faces import FaceReader
from portraits.pixels import to_pixels
from tests.faces import DOTS, DotDetector


class CountingDetector(DotDetector):
    """Counts the images it gets."""

    seen = 0

    def faces(self, image):
        self.seen += 1
        return super().faces(image)


@pytest.fixture
def photos():
    """Two images of a dotted face and one without a face (3, 3, S, S)."""
    pixels = np.full((3, 120, 120, 3), 90, np.uint8)
    for number in range(2):
        for (x, y), colour in zip(((-12, -12), (12, -12), (0, 2), (-10, 14), (10, 14)), DOTS, strict=True):
            pixels[number, 58 + y : 63 + y, 58 + 10 * number + x : 63 + 10 * number + x] = colour
    return to_pixels(pixels)


@pytest.fixture
def reader():
    reader = FaceReader()
    reader.detector = CountingDetector()
    return reader


def test_equal_images_are_detected_once(reader, photos):
    reader.read(photos)
    each = reader.detector.seen
    first, again, other, nobody = reader.read(photos[[0, 0, 1, 2]])
    assert again is first
    assert other is not None
    assert other is not first
    assert nobody is None
    assert reader.detector.seen == 2 * each


@pytest.mark.skipif(not CATALOGUE["dlib"].available, reason="dlib's models are not installed")
def test_equal_images_are_embedded_once(reader, photos):
    metric, asked = ID("dlib", reader), []

    def embed(faces):
        asked.append(len(faces))
        return torch.stack([torch.tensor([face.square.left, 7.0]) for face in faces]).float()

    metric.embed = embed
    shown, truth = reader.read(photos[[0, 0, 1, 2]]), reader.read(photos[[1, 0, 1, 0]])
    cosines = metric.compare(shown, truth)[:, 0]
    assert asked == [4]  # two different images among the shown, two among the true
    assert cosines[2] == pytest.approx(1)
    assert cosines[0] < 1
    assert cosines.isnan().tolist() == [False, False, False, True]
