"""Safe parsing of untrusted `.npy` bytes."""

import io
from typing import Any

import numpy as np
import pytest

from core.arrays import parse_npy


def npy(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_parse_npy_round_trip(version: tuple[int, int], order: str):
    for array in (np.arange(6.0).reshape(2, 3), np.arange(24, dtype=">i2").reshape(2, 3, 4), np.float32(3)):
        data = npy(np.asarray(array, order=order), version=version)
        np.testing.assert_array_equal(parse_npy(data), array)


def test_header_must_match_the_data_length():
    data = npy(np.zeros((2, 3)))
    for bad in (data[:-1], data + b"0", data.replace(b"(2, 3)", b"(9, 9)"), data[:30], b""):
        with pytest.raises(ValueError, match=r"array of float64|EOF|npy|magic|expected"):
            parse_npy(bad)
    huge = data.replace(b"(2, 3), }             ", b"(99999999, 99999999), }")[: len(data)]
    with pytest.raises(ValueError, match="in 176 bytes"):
        parse_npy(huge)


def test_non_numeric_arrays_are_refused():
    pickled = npy(np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    for data in (pickled, npy(np.array(["text"])), npy(np.zeros(2, dtype=[("a", "f4")]))):
        with pytest.raises(ValueError, match="not of numbers"):
            parse_npy(data)


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
def test_corrupted_header_raises_only_value_error():
    data = npy(np.zeros((3, 25), np.float32))
    rng = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(data)
        for place in rng.integers(0, 100, 3):
            damaged[place] = rng.choice(list(b"()[]{}'\"\n #,:09eExX\x00\xff"))
        try:
            parse_npy(bytes(damaged))
        except ValueError:
            continue
