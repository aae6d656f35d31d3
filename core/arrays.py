"""A safe parser for untrusted `.npy` data."""

import io
import struct
from math import prod
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

MAX_HEADER = 1000


def parse_npy(data: bytes) -> NDArray[np.generic]:
    """Parse the bytes of a `.npy` file into a read-only numeric array.

    Nothing is unpickled, and memory is allocated only once the size in the header matches the size of the
    data.

    Raises:
        ValueError: the data is not a numeric array, is truncated, or has trailing bytes.
    """
    file = io.BytesIO(data)
    shape, fortran, dtype = _header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype}, not of numbers")
    if dtype.itemsize * prod(shape) != len(data) - file.tell() or min(shape, default=0) < 0:
        raise ValueError(f"an array of {dtype} {shape} in {len(data)} bytes")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file, max_header_size=MAX_HEADER)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(file, max_header_size=MAX_HEADER)
    except (SyntaxError, TokenError, RecursionError, MemoryError, TypeError, struct.error) as error:
        raise ValueError(f"no npy header ({error})") from error
    raise ValueError(f"npy version {version}")
