"""ID: identity similarity, the cosine of face embeddings. N pairs, D features."""

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
    """Cosine similarity of the embeddings of two faces; 1 for equal images.

    Pairs without a face in both images count as failures. `python -m benchmarks.identity` prints each
    network's typical cosines between different people, and for one person as the head turns.

    Args:
        weights: "vggface2" (the standard: facenet-pytorch's network), "sface", "dlib" (whose cosines are high
            throughout), or "arcface" for an ONNX file that the user provides, as "arcface=PATH" or in the
            cache folder; by default the best available
        reader: the face detector, which may be shared between metrics

    Raises InputError if the weights are not available.
    """

    symbol = "ID"
    higher_is_better = True

    def __init__(self, weights: str | None = None, reader: FaceReader | None = None, **options: Any) -> None:
        chosen = weights_for(self.symbol, weights)
        super().__init__(chosen, reader, **options)
        self.embed = recogniser(chosen)

    def compare(self, images: Readings, truth: Readings) -> Tensor:
        """Cosines (N, 1); NaN if either image has no face."""
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
    """The network with these weights. Raises InputError if the name is unknown or the weights are not
    available."""
    name, _, path = weights.partition("=")
    if name == ARCFACE:
        return arcface(path or None)
    if weights not in RECOGNISERS:
        raise InputError(f"ID takes the weights {', '.join(RECOGNISERS)}, not {weights!r}")
    return RECOGNISERS[weights]()
