"""dlib's networks, whose weights come in a package, and the preparation of their inputs."""

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
# smaller images are enlarged to this side, about the face size in the landmark detector's training
SIDE = 256


def model_file(weights: str, name: str) -> str:
    """Path of a model file in its package, which is not imported. Raises InputError if the packages of these
    weights are not installed."""
    if not CATALOGUE[weights].available:
        raise InputError(f"metric weights {weights}: {CATALOGUE[weights].remedy}")
    spec = find_spec(MODELS)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "models" / name)


def dlib_view(
    face: Reading, square: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.uint8], Any, float]:
    """The image, enlarged if small, dlib's rectangle of the face in it, and the scale of enlargement.
    `square` (4,), in pixels of the image, is the face's region; by default it is derived from the face's
    box."""
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
    """Convert a face's box to one like those of dlib's detector: square, as wide as the face, over its lower
    part."""
    left, top, right, bottom = box
    side = (right - left + bottom - top) / 2
    middle = np.array([(left + right) / 2, (top + bottom) / 2 + 0.05 * side])
    return np.concatenate([middle - side / 2, middle + side / 2])
