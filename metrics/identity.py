"""ID: whether two images show the same person, by the cosine of face embeddings. N pairs, D features."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from metrics.base import weights_for
from metrics.catalogue import DLIB, VGGFACE2, published
from metrics.dlib_faces import model_file, shown
from metrics.faces import FaceMetric, FaceReader, Reading, Readings

FACENET_SIDE = 160


class Embedder(Protocol):
    """A network that tells people apart."""

    def __call__(self, faces: Sequence[Reading]) -> Tensor:
        """Embeddings (N, D) of faces."""
        ...


class ID(FaceMetric):
    """Cosine of the embeddings of two faces; 1 where images are equal.

    `weights`: "vggface2" (the standard: facenet-pytorch's network), or "dlib", whose cosines are high
    throughout. Faces are found by MTCNN; pairs where one is not are counted as failures. Raises InputError
    where this machine lacks the weights.
    """

    symbol = "ID"
    higher_is_better = True

    def __init__(self, weights: str | None = None, reader: FaceReader | None = None, **options: Any) -> None:
        super().__init__(weights_for(self.symbol, weights), reader, **options)
        if self.weights not in EMBEDDERS:
            raise InputError(f"ID takes the weights {', '.join(EMBEDDERS)}, not {self.weights!r}")
        self.embed: Embedder = EMBEDDERS[self.weights]()

    def compare(self, images: Readings, truth: Readings) -> Tensor:
        """Cosines (N, 1); NaN where either shows no face."""
        cosines = torch.full((len(images), 1), torch.nan)
        both = [i for i, pair in enumerate(zip(images, truth, strict=True)) if None not in pair]
        if both:
            faces = {id(readings[i]): readings[i] for readings in (images, truth) for i in both}
            known = dict(zip(faces, self.embed(list(faces.values())), strict=True))
            first, second = (
                torch.stack([known[id(readings[i])] for i in both]) for readings in (images, truth)
            )
            cosines[both, 0] = F.cosine_similarity(first, second)
        return cosines


class FacenetEmbedder:
    """facenet-pytorch's InceptionResnetV1 trained on VGGFace2, on the detector's box at 160×160."""

    def __init__(self) -> None:
        try:
            from facenet_pytorch import InceptionResnetV1
        except ImportError:
            raise InputError("ID: finding faces takes facenet-pytorch: see the README's setup") from None
        tensors = published(VGGFACE2).tensors()
        self.network = InceptionResnetV1(pretrained=None)
        classifier = [name for name in tensors if name.startswith("logits.")]
        self.network.load_state_dict({n: x for n, x in tensors.items() if n not in classifier})
        self.network.eval().requires_grad_(False)

    def __call__(self, faces: Sequence[Reading]) -> Tensor:
        """Embeddings (N, 512), unit length."""
        pixels = np.stack([_boxed(face) for face in faces])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub(127.5).div(128)
        return self.network(images)


class DlibEmbedder:
    """dlib's face network on its own alignment, the face looked for where MTCNN has found it."""

    def __init__(self) -> None:
        landmarks = model_file(DLIB, "shape_predictor_5_face_landmarks.dat")
        import dlib

        self._landmarks = dlib.shape_predictor(landmarks)
        self._network = dlib.face_recognition_model_v1(
            model_file(DLIB, "dlib_face_recognition_resnet_model_v1.dat")
        )

    def __call__(self, faces: Sequence[Reading]) -> Tensor:
        """Embeddings (N, 128)."""
        return torch.from_numpy(np.stack([self._describe(face) for face in faces])).float()

    def _describe(self, face: Reading) -> NDArray[np.float64]:
        image, box, _ = shown(face)
        return np.array(self._network.compute_face_descriptor(image, self._landmarks(image, box)))


def _boxed(face: Reading) -> NDArray[np.uint8]:
    """The detector's box (160, 160, 3), as facenet-pytorch cuts it: no margin, kept inside the image."""
    height, width = face.image.shape[:2]
    left, top, right, bottom = np.clip(face.aligned.face.box, 0, (width, height, width, height))
    image = Image.fromarray(face.image)
    size = (FACENET_SIDE, FACENET_SIDE)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


EMBEDDERS: dict[str, Callable[[], Embedder]] = {VGGFACE2: FacenetEmbedder, DLIB: DlibEmbedder}
