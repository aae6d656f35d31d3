"""Fingerprints of loaded values, and photos for samples."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

SIDE = 16


def fingerprint(*values: Any) -> str:
    """The SHA-256 of values, arrays, tensors, images, dataclasses, and lists and mappings of them."""
    digest = hashlib.sha256()
    for part in _parts(values):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterable[bytes]:
    if isinstance(value, Tensor):
        value = value.detach().float().numpy()
    if isinstance(value, Image.Image):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        yield f"{value.shape} {value.dtype}".encode() + np.ascontiguousarray(value).tobytes()
    elif is_dataclass(value):
        yield from _parts({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode("utf-8", "surrogatepass")
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode("utf-8", "surrogatepass")


def photo(seed: int, side: int = SIDE) -> Image.Image:
    """A photo of random squares."""
    levels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(levels.repeat(side // 4, 0).repeat(side // 4, 1))
