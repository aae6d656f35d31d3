import json

import numpy as np
import pytest

from shards.sources.nersemble.colour import (
    EXPANSIONS,
    ColourError,
    affine,
    expand,
    load_correction,
    polynomial,
    to_linear,
    to_srgb,
)

R, G, B = 0.2, 0.5, 0.7


def test_polynomial_expansions_have_the_documented_terms():
    colour = np.array([R, G, B])
    np.testing.assert_allclose(expand(colour, 5), [R, G, B, R * G * B, 1])
    np.testing.assert_allclose(expand(colour, 8), [R, G, B, R * G, R * B, G * B, R * G * B, 1])
    eleven = [R, G, B, R * G, R * B, G * B, R**2, G**2, B**2, R * G * B, 1]
    np.testing.assert_allclose(expand(colour, 11), eleven)
    tail = [R**2 * G * B, R * G**2 * B, R * G * B**2]
    np.testing.assert_allclose(expand(colour, 22)[-3:], tail)
    assert all(len(exponents) == terms for terms, exponents in EXPANSIONS.items())


def test_affine_correction_multiplies_row_vectors():
    matrix = np.zeros((4, 4))
    matrix[0, 1] = 1.0  # red in, green out
    matrix[:3, 3] = (0.0, 0.0, 0.25)
    np.testing.assert_allclose(affine(matrix)(np.array([0.6, 0.1, 0.1])), [0.0, 0.6, 0.25])


def test_polynomial_correction_is_in_linear_rgb():
    matrix = np.diag([0.5, 1.0, 1.0])
    corrected = polynomial(matrix)(np.array([[0.8, 0.3, 0.4]]))
    np.testing.assert_allclose(to_linear(corrected), to_linear(np.array([[0.8, 0.3, 0.4]])) * (0.5, 1, 1))


def test_srgb_round_trip():
    values = np.linspace(0, 1, 50)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=1e-4)


def test_malformed_corrections_are_refused(tmp_path):
    np.save(tmp_path / "1.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "2.npy", np.eye(2))
    matrices = {"1": [[1, 2, 3, 4, 5, 6]], "2": [[0], [0], [0]], "4": [[10**400]]}
    (tmp_path / "c.json").write_text(json.dumps(matrices))
    for serial in ("1", "2", "3", "4"):
        for path in (tmp_path, tmp_path / "c.json"):
            with pytest.raises(ColourError):
                load_correction(path, serial)
