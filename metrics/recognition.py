"""Face recognition networks. N faces, D features."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.errors import InputError
from metrics.catalogue import ARCFACE, DLIB, SFACE, VGGFACE2, own_file, packaged, published
from metrics.dlib_faces import dlib_view, model_file
from metrics.faces import Reading
from metrics.onnx_graphs import node_names, only_true_inputs, open_session
from portraits.alignment.region import Region

FACENET_SIDE, ARCFACE_SIDE = 160, 112
# The five landmarks in ArcFace's crop (insightface's template), in pixels of 112×112.
ARCFACE_LANDMARKS = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
FIRST_NODES = 8  # nodes of a graph in which insightface looks for a built-in normalisation


class Recogniser(Protocol):
    """A face recognition network."""

    def __call__(self, faces: Sequence[Reading]) -> Tensor:
        """Embeddings (N, D) of faces."""
        ...


class FacenetRecogniser:
    """facenet-pytorch's InceptionResnetV1 trained on VGGFace2, on the face's box at 160×160."""

    def __init__(self) -> None:
        try:
            from facenet_pytorch import InceptionResnetV1
        except ImportError:
            raise InputError(
                "ID: face detection needs facenet-pytorch: pip install -e '.[metrics]'"
            ) from None
        tensors = published(VGGFACE2).tensors()
        self.network = InceptionResnetV1(pretrained=None)
        classifier = [name for name in tensors if name.startswith("logits.")]
        self.network.load_state_dict({n: x for n, x in tensors.items() if n not in classifier})
        self.network.eval().requires_grad_(False)

    def __call__(self, faces: Sequence[Reading]) -> Tensor:
        """Embeddings (N, 512), unit length."""
        pixels = np.stack([box_crop(face) for face in faces])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub(127.5).div(128)
        return self.network(images)


class DlibRecogniser:
    """dlib's face network with its own alignment, initialised by the face's box."""

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
        image, box, _ = dlib_view(face)
        return np.array(self._network.compute_face_descriptor(image, self._landmarks(image, box)))


class OnnxRecogniser:
    """A recogniser in an ONNX file whose input is ArcFace's crop (N, 3, 112, 112), RGB.

    Args:
        content: the file's bytes
        where: the file's name in errors
        middle, scale: levels in [0, 255] are normalised to (level - middle) / scale

    Raises InputError if the file is no such network.
    """

    def __init__(self, content: bytes, where: str, middle: float, scale: float) -> None:
        self._session = open_session(content, where)
        self._middle, self._scale = middle, scale
        (taken, *others), given = self._session.get_inputs(), self._session.get_outputs()
        shape = tuple(taken.shape)
        if others or len(shape) != 4 or shape[1:] != (3, ARCFACE_SIDE, ARCFACE_SIDE) or len(given) != 1:
            wanted = f"(N, 3, {ARCFACE_SIDE}, {ARCFACE_SIDE})"
            raise InputError(
                f"{where} is no face recogniser: it has {len(others) + 1} inputs, the first of shape"
                f" {shape}, and {len(given)} outputs; expected are one of shape {wanted} and one"
            )
        self._name = taken.name
        self._batch = shape[0] if isinstance(shape[0], int) else None

    def __call__(self, faces: Sequence[Reading]) -> Tensor:
        """Embeddings (N, D)."""
        pixels = np.stack([arcface_crop(face) for face in faces]).transpose(0, 3, 1, 2).astype(np.float32)
        images = (pixels - self._middle) / self._scale
        step = self._batch or len(images)
        found = [
            self._session.run(None, {self._name: images[start : start + step]})[0]
            for start in range(0, len(images), step)
        ]
        return torch.from_numpy(np.concatenate(found))


def sface() -> OnnxRecogniser:
    """SFace (Zhong et al. 2021; OpenCV Zoo, Apache-2.0), 128 features, without normalisation of levels."""
    file = packaged(SFACE)
    return OnnxRecogniser(only_true_inputs(file.read()), str(file.path), 0.0, 1.0)


def arcface(path: str | None = None) -> OnnxRecogniser:
    """ArcFace (Deng et al. 2019) from an ONNX file like insightface's R50 and R100, by default the one in the
    cache folder. Raises InputError.

    Levels are normalised to [-1, 1], unless the graph's first nodes do so (exports from MXNet): insightface's
    own criterion.
    """
    file = own_file(ARCFACE if path is None else f"{ARCFACE}={path}")
    try:
        content = file.read_bytes()
        names = node_names(content)[:FIRST_NODES]
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file} is no ONNX file: {error}") from error
    subtracts = any(name.startswith(("Sub", "_minus")) for name in names)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in names)
    middle, scale = (0.0, 1.0) if subtracts and multiplies else (127.5, 127.5)
    return OnnxRecogniser(content, str(file), middle, scale)


def box_crop(face: Reading) -> NDArray[np.uint8]:
    """The face's box (160, 160, 3), cropped as by facenet-pytorch: without margin, clipped to the image."""
    height, width = face.image.shape[:2]
    left, top, right, bottom = np.clip(face.box, 0, (width, height, width, height))
    image = Image.fromarray(face.image)
    size = (FACENET_SIDE, FACENET_SIDE)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def arcface_crop(face: Reading) -> NDArray[np.uint8]:
    """ArcFace's crop (112, 112, 3): the least-squares similarity from the five landmarks to
    `ARCFACE_LANDMARKS`."""
    return Region.matching(face.landmarks, ARCFACE_LANDMARKS, ARCFACE_SIDE).cut(face.image, ARCFACE_SIDE)
