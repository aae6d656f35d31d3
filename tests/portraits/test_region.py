"""Rotated square regions of an image."""

import numpy as np
import pytest

from portraits.alignment.region import Region

SIZE = 96


def dot(place, spread, side=400):
    """An image (side, side, 3) of a Gaussian dot at (row, column)."""
    rows, columns = np.indices((side, side))
    levels = 255 * np.exp(-((columns - place[0]) ** 2 + (rows - place[1]) ** 2) / (2 * spread**2))
    return np.repeat(levels[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("side", [60.0, 180.0, 390.0])
def test_cut_and_to_image_agree(side):
    place = np.array([210.3, 180.6])
    region = Region(np.array([200.0, 190.0]), side, 0.6)
    cut = region.cut(dot(place, side / 25), SIZE)[..., 0].astype(float)
    rows, columns = np.indices(cut.shape) + 0.5
    seen = np.array([[(cut * columns).sum(), (cut * rows).sum()]]) / cut.sum() / SIZE
    np.testing.assert_allclose(region.to_image(seen)[0], place, atol=0.01 * side)


def test_region_around_points():
    turned = Region(np.array([50.0, 80.0]), 40.0, -0.4)
    corners = turned.to_image([(0, 0), (1, 0), (1, 1), (0, 1)])
    found = Region.around(corners, corners[1] - corners[0], 1.5)
    np.testing.assert_allclose(found.centre, turned.centre)
    assert (found.side, found.roll) == (pytest.approx(60), pytest.approx(-0.4))


def test_region_matching_inverts_to_image():
    template = np.array([(30.0, 40.0), (70.0, 40.0), (50.0, 60.0), (35.0, 80.0)])
    region = Region(np.array([120.0, 60.0]), 250.0, 0.7)
    found = Region.matching(region.to_image((template + 0.5) / SIZE), template, SIZE)
    np.testing.assert_allclose(found.centre, region.centre)
    assert (found.side, found.roll) == (pytest.approx(250), pytest.approx(0.7))
