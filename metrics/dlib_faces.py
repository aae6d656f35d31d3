"""dlib's networks, whose weights come in a package, and faces as they take them."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from metrics.catalogue import CATALOGUE
from metrics.faces import Reading

MODELS = "face_recognition_models"
SIDE = 256  # what a landmark finder is given: the face is then about as large as it was trained on


def model_file(weights: str, name: str) -> str:
    """Where the package, which is found without importing it, has a model. Raises InputError where the
    packages of these weights are missing."""
    if not CATALOGUE[weights].available:
        raise InputError(f"metric weights {weights}: {CATALOGUE[weights].remedy}")
    spec = find_spec(MODELS)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "models" / name)


def dlib_view(
    face: Reading, square: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.uint8], Any, float]:
    """The image, enlarged where it is small, dlib's rectangle of the face in it, and by how much it was
    enlarged. `square` (4,), in pixels of the image, is where the face is; by default by its box."""
    import dlib

    image, scale = _enlarged(face.image)
    edges = (_square(face.box) if square is None else square) * scale
    return image, dlib.rectangle(*(round(float(edge)) for edge in edges)), scale


def _enlarged(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    side = min(image.shape[:2])
    if side >= SIDE:
        return image, 1.0
    scale = SIDE / side
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)), scale


def _square(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """A face's box as dlib's detector draws its own: square, as wide as the face, about its lower part."""
    left, top, right, bottom = box
    side = (right - left + bottom - top) / 2
    middle = np.array([(left + right) / 2, (top + bottom) / 2 + 0.05 * side])
    return np.concatenate([middle - side / 2, middle + side / 2])
