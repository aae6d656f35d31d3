import numpy as np
from PIL import Image

from shards.cameras import label_from_angles
from shards.sheet import CAPTION, GUTTER, MARGIN, MOST_VIEWS, camera_captions, view_sheet

SIDE = 16


def greys(count: int, channel: int) -> list[Image.Image]:
    """Images whose `channel` is their number, so that they can be told apart."""
    images = np.zeros((count, 8, 8, 3), np.uint8)
    images[..., channel] = np.arange(count)[:, None, None] + 1
    return [Image.fromarray(image) for image in images]


def tile(sheet: Image.Image, column: int, top: int) -> tuple[int, ...]:
    return sheet.getpixel((GUTTER + column * (SIDE + MARGIN) + SIDE // 2, top + SIDE // 2))


def test_every_view_stands_beneath_its_condition():
    rows = {"conditions": greys(5, 0), "views": greys(5, 1)}
    sheet = view_sheet(greys(2, 2), rows, [str(i) for i in range(5)], columns=3, side=SIDE)
    step = SIDE + MARGIN
    assert [tile(sheet, column, MARGIN) for column in range(3)] == [(0, 0, 1), (0, 0, 2), (255, 255, 255)]
    for view in range(5):
        top = step + CAPTION + (view // 3) * (2 * step + CAPTION + MARGIN)
        assert tile(sheet, view % 3, top) == (view + 1, 0, 0)
        assert tile(sheet, view % 3, top + step) == (0, view + 1, 0)


def test_a_long_path_is_shown_by_evenly_spaced_views():
    count = 3 * MOST_VIEWS
    sheet = view_sheet(greys(1, 2), {"views": greys(count, 1)}, [""] * count, side=SIDE)
    band = SIDE + MARGIN + CAPTION + MARGIN
    shown = [
        tile(sheet, view % 8, SIDE + MARGIN + CAPTION + view // 8 * band)[1] - 1 for view in range(MOST_VIEWS)
    ]
    assert (shown[0], shown[-1]) == (0, count - 1)
    assert set(np.diff(shown)) <= {3, 4}


def test_captions_are_degrees_without_minus_nought():
    labels = [label_from_angles(*np.radians(pair)) for pair in ((-30, 10.4), (-0.2, -0.1))]
    assert camera_captions(labels) == ["yaw -30  pitch +10", "yaw +0  pitch +0"]
