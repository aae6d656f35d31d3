"""ID: whether two images show the same person, by the cosine of face embeddings. N pairs, D features."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from metrics.base import weights_for
from metrics.catalogue import ARCFACE, DLIB, SFACE, VGGFACE2
from metrics.faces import FaceMetric, FaceReader, Readings
from metrics.recognition import DlibRecogniser, FacenetRecogniser, Recogniser, arcface, sface


class ID(FaceMetric):
    """Cosine of the embeddings of two faces; 1 where images are equal.

    `weights`: "vggface2" (the standard: facenet-pytorch's network), "sface", "dlib", whose cosines are high
    throughout, or "arcface", an ONNX file of the user's own, stated as "arcface=PATH" or in the cache folder.
    Pairs where a face is not found are counted as failures. What a cosine means for each network, between
    strangers and for one person as the head turns, `python -m benchmarks.identity` prints. Raises InputError
    where this machine lacks the weights.
    """

    symbol = "ID"
    higher_is_better = True

    def __init__(self, weights: str | None = None, reader: FaceReader | None = None, **options: Any) -> None:
        chosen = weights_for(self.symbol, weights)
        super().__init__(chosen, reader, **options)
        self.embed = recogniser(chosen)

    def compare(self, images: Readings, truth: Readings) -> Tensor:
        """Cosines (N, 1); NaN where either shows no face."""
        cosines = torch.full((len(images), 1), torch.nan)
        both = [i for i, pair in enumerate(zip(images, truth, strict=True)) if None not in pair]
        if both:
            found = (reading for readings in (images, truth) for i in both if (reading := readings[i]))
            faces = {id(reading): reading for reading in found}
            known = dict(zip(faces, self.embed(list(faces.values())), strict=True))
            first, second = (
                torch.stack([known[id(readings[i])] for i in both]) for readings in (images, truth)
            )
            cosines[both, 0] = F.cosine_similarity(first, second)
        return cosines


RECOGNISERS: dict[str, Callable[[], Recogniser]] = {
    VGGFACE2: FacenetRecogniser,
    SFACE: sface,
    DLIB: DlibRecogniser,
    ARCFACE: arcface,
}


def recogniser(weights: str) -> Recogniser:
    """The network with these weights. Raises InputError where there is none of this name, or this machine
    lacks it."""
    name, _, path = weights.partition("=")
    if name == ARCFACE:
        return arcface(path or None)
    if weights not in RECOGNISERS:
        raise InputError(f"ID takes the weights {', '.join(RECOGNISERS)}, not {weights!r}")
    return RECOGNISERS[weights]()
