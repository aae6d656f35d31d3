import numpy as np
from PIL import Image

from portraits.cameras import label_from_angles
from portraits.contact_sheet import (
    CAPTION,
    GUTTER,
    MARGIN,
    MOST_VIEWS,
    camera_captions,
    case_sheet,
    grid,
    view_sheet,
)

SIDE = 16


def numbered(count: int, channel: int) -> list[Image.Image]:
    """Images whose `channel` holds their number, counted from 1."""
    images = np.zeros((count, 8, 8, 3), np.uint8)
    images[..., channel] = np.arange(count)[:, None, None] + 1
    return [Image.fromarray(image) for image in images]


def tile(sheet: Image.Image, column: int, top: int) -> tuple[int, ...]:
    return sheet.getpixel((MARGIN + GUTTER + column * (SIDE + MARGIN) + SIDE // 2, top + SIDE // 2))


def test_views_are_below_their_conditions():
    rows = {"conditions": numbered(5, 0), "views": numbered(5, 1)}
    sheet = view_sheet(numbered(2, 2), rows, [str(i) for i in range(5)], columns=3, side=SIDE)
    step = SIDE + MARGIN
    assert [tile(sheet, column, MARGIN) for column in range(3)] == [(0, 0, 1), (0, 0, 2), (255, 255, 255)]
    for view in range(5):
        top = MARGIN + step + MARGIN + (view // 3) * (2 * step + CAPTION + MARGIN)
        assert tile(sheet, view % 3, top) == (view + 1, 0, 0)
        assert tile(sheet, view % 3, top + step) == (0, view + 1, 0)


def test_long_trajectories_are_subsampled_evenly():
    count = 3 * MOST_VIEWS
    sheet = view_sheet(numbered(1, 2), {"views": numbered(count, 1)}, [""] * count, side=SIDE)
    band = SIDE + MARGIN + CAPTION + MARGIN
    shown = [tile(sheet, view % 8, SIDE + 3 * MARGIN + view // 8 * band)[1] - 1 for view in range(MOST_VIEWS)]
    assert (shown[0], shown[-1]) == (0, count - 1)
    assert set(np.diff(shown)) <= {3, 4}


def test_captions_have_no_negative_zero():
    labels = [label_from_angles(*np.radians(pair)) for pair in ((-30, 10.4), (-0.2, -0.1))]
    assert camera_captions(labels) == ["yaw -30  pitch +10", "yaw +0  pitch +0"]


def test_grid_layout():
    values = np.arange(6, dtype=np.uint8).reshape(3, 2, 1, 1, 1) * 50  # 3 items of 2 images
    image = grid(np.broadcast_to(values, (3, 2, 4, 4, 3)), columns=2, upscale=2)
    assert image.size == (2 * 2 * 8, 2 * 8)
    shades = [[image.getpixel((8 * x + 4, 8 * y + 4))[0] for x in range(4)] for y in range(2)]
    assert shades == [[0, 50, 100, 150], [200, 250, 255, 255]]


def test_missing_image_leaves_an_empty_cell():
    (red,), (green,) = numbered(1, 0), numbered(1, 1)
    sheet = case_sheet(["first", "second"], {"a": [red, green], "b": [None, green]}, SIDE)
    step, row, head = SIDE + MARGIN, SIDE + CAPTION + 2 * MARGIN, CAPTION + 2 * MARGIN
    assert sheet.size == (MARGIN + 2 * step, head + 2 * row)
    half = SIDE // 2
    middles = [[(MARGIN + x * step + half, head + y * row + half) for x in range(2)] for y in range(2)]
    shown = [[sheet.getpixel(middle) for middle in line] for line in middles]
    assert shown == [[(1, 0, 0), (0, 1, 0)], [(255, 255, 255), (0, 1, 0)]]
