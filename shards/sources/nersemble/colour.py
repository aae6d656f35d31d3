"""The colour corrections of both versions of NeRSemble, on sRGB colours in [0, 1]."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.arrays import parse_npy

Colours = NDArray[np.float64]
Correction = Callable[[Colours], Colours]

MAX_BYTES = 1 << 20


class ColourError(ValueError):
    """A colour correction cannot be used."""


def load_correction(path: Path, serial: str) -> Correction:
    """The correction of one camera, from a folder of matrices (version 1) or from one file for all cameras
    (version 2). Raises ColourError."""
    try:
        if path.is_dir():
            return affine(_load_matrix(path / f"{serial}.npy"))
        values = json.loads(_read(path))
        return polynomial(np.array(values[serial], dtype=np.float64))
    except KeyError as error:
        raise ColourError(f"{path.name} has no camera {serial}") from error
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ColourError(f"{path.name} is no colour correction of camera {serial} ({error})") from error


def affine(matrix: Colours) -> Correction:
    """Version 1: rgb @ A[:3, :3] + A[:3, 3], with colours as row vectors."""
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        raise ColourError(f"an affine colour correction of shape {matrix.shape}")
    linear, shift = matrix[:3, :3], matrix[:3, 3]
    return lambda colours: np.clip(colours @ linear + shift, 0, 1)


def polynomial(matrix: Colours) -> Correction:
    """Version 2: a 3×N matrix times the N-term polynomial expansion of the linear colour (Cheung et al.
    2004)."""
    if matrix.ndim != 2 or matrix.shape[0] != 3 or not np.isfinite(matrix).all():
        raise ColourError(f"a polynomial colour correction of shape {matrix.shape}")
    terms = matrix.shape[1]
    expand(np.zeros((1, 3)), terms)
    return lambda colours: np.clip(to_srgb(expand(to_linear(colours), terms) @ matrix.T), 0, 1)


# The monomials of each expansion as exponents of (R, G, B), in the order of the colour-science package, with
# which NeRSemble's matrices were estimated.
_FIRST = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
_CROSS = [(1, 1, 0), (1, 0, 1), (0, 1, 1)]
_SQUARES = [(2, 0, 0), (0, 2, 0), (0, 0, 2)]
_PRODUCT = [(1, 1, 1)]
_CUBES = [(3, 0, 0), (0, 3, 0), (0, 0, 3)]
_MIXED = [(2, 1, 0), (0, 2, 1), (1, 0, 2)]
_MIXED_BACK = [(2, 0, 1), (1, 2, 0), (0, 1, 2)]
_FOURTH = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
_ONE = [(0, 0, 0)]
_TEN = _FIRST + _CROSS + _SQUARES + _PRODUCT
EXPANSIONS = {
    3: _FIRST,
    4: _FIRST + _ONE,
    5: _FIRST + _PRODUCT + _ONE,
    7: _FIRST + _CROSS + _ONE,
    8: _FIRST + _CROSS + _PRODUCT + _ONE,
    10: _FIRST + _CROSS + _SQUARES + _ONE,
    11: _TEN + _ONE,
    14: _TEN + _CUBES + _ONE,
    16: _TEN + _MIXED + _CUBES,
    17: _TEN + _MIXED + _CUBES + _ONE,
    19: _TEN + _MIXED + _MIXED_BACK + _CUBES,
    20: _TEN + _MIXED + _MIXED_BACK + _CUBES + _ONE,
    22: _TEN + _MIXED + _MIXED_BACK + _CUBES + _FOURTH,
}


def expand(colours: Colours, terms: int) -> Colours:
    """The polynomial expansion (..., terms) of colours (..., 3). Raises ColourError for an unsupported number
    of terms."""
    if terms not in EXPANSIONS:
        raise ColourError(
            f"a colour correction of {terms} terms, not one of {', '.join(map(str, EXPANSIONS))}"
        )
    r, g, b = np.moveaxis(colours, -1, 0)
    return np.stack([r**i * g**j * b**k for i, j, k in EXPANSIONS[terms]], axis=-1)


def to_linear(colours: Colours) -> Colours:
    """Convert sRGB to linear RGB."""
    return np.where(colours <= 0.04045, colours / 12.92, ((np.maximum(colours, 0) + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Colours) -> Colours:
    """Convert linear RGB to sRGB."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def correct(image: NDArray[np.uint8], correction: Correction) -> NDArray[np.uint8]:
    """Apply a correction to an image (H, W, 3) uint8."""
    return np.round(correction(image.astype(np.float64) / 255) * 255).astype(np.uint8)


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise ColourError(f"{path.name} is larger than a colour correction can be")
    return path.read_bytes()


def _load_matrix(path: Path) -> Colours:
    return np.asarray(parse_npy(_read(path)), dtype=np.float64)
