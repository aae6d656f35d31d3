"""Contact sheets: a few frames on one picture, to be looked at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from core.errors import InputError
from core.files import whole_file
from portraits.cameras import angles
from portraits.pixels import Images

MARGIN = 4
CAPTION = 14
GUTTER = 64
MOST_VIEWS = 32
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
QUALITY = 85  # of a JPEG, Pillow's scale
PAPER = "white"
INK = "black"


def tile(image: Images, side: int) -> Image.Image:
    """An image (H, W, 3) uint8 resized to `side` pixels square."""
    return Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)


def view_sheet(
    portraits: Sequence[Image.Image],
    rows: Mapping[str, Sequence[Image.Image]],
    captions: Sequence[str],
    columns: int = 8,
    side: int = 128,
) -> Image.Image:
    """The views of one person: the portraits on top, and beneath them bands of `columns` views, in each band
    one row of every name (conditions, views …), with a caption for each view.

    Of more than `MOST_VIEWS` views, that many evenly spaced ones are shown. Tiles are `side` pixels wide."""
    shown = np.linspace(0, len(captions) - 1, min(len(captions), MOST_VIEWS)).round().astype(int).tolist()
    columns = min(columns, max(len(shown), len(portraits)))
    bands = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    step = side + MARGIN
    height = CAPTION + step + len(bands) * (len(rows) * step + CAPTION + MARGIN)
    sheet = Image.new("RGB", (GUTTER + columns * step, height), PAPER)
    _row(sheet, "portrait", portraits[:columns], MARGIN, side)
    for number, band in enumerate(bands):
        top = step + CAPTION + number * (len(rows) * step + CAPTION + MARGIN)
        for line, (name, images) in enumerate(rows.items()):
            _row(sheet, name, [images[view] for view in band], top + line * step, side)
        draw = ImageDraw.Draw(sheet)
        for column, view in enumerate(band):
            place = (GUTTER + column * step, top + len(rows) * step - MARGIN)
            draw.text(place, captions[view], INK, ImageFont.load_default(10))
    return sheet


def camera_captions(cameras: ArrayLike) -> list[str]:
    """Yaw and pitch in degrees of every camera (K, 25)."""
    whole = np.degrees(angles(cameras)).round().astype(int)
    return [f"yaw {yaw:+d}  pitch {pitch:+d}" for yaw, pitch in whole]


def _row(sheet: Image.Image, name: str, images: Sequence[Image.Image], top: int, side: int) -> None:
    """A row of tiles, its name in the gutter."""
    ImageDraw.Draw(sheet).text((MARGIN, top + side // 2), name, INK, ImageFont.load_default(10))
    for column, image in enumerate(images):
        sheet.paste(tile(np.asarray(image), side), (GUTTER + column * (side + MARGIN), top))


def case_sheet(
    kinds: Sequence[str], cases: Mapping[str, Sequence[Image.Image | None]], side: int = 128
) -> Image.Image:
    """A row for each case, its caption beneath: a tile of `side` pixels for each of the `kinds`, which name
    the columns, or nothing where there is none."""
    step, row = side + MARGIN, side + CAPTION + MARGIN
    sheet = Image.new("RGB", (len(kinds) * step, CAPTION + len(cases) * row), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for column, kind in enumerate(kinds):
        draw.text((column * step + 2, 1), kind, INK, font)
    for number, (caption, tiles) in enumerate(cases.items()):
        top = CAPTION + number * row
        for column, image in enumerate(tiles):
            if image is not None:
                sheet.paste(tile(np.asarray(image), side), (column * step, top))
        draw.text((2, top + side), caption, INK, font)
    return sheet


def grid(images: Images, columns: int, upscale: int) -> Image.Image:
    """Images (B, P, S, S, 3) uint8 as one: `columns` items in a line, the P images of each side by side."""
    items, count, height, width, _ = images.shape
    lines = -(-items // columns)
    canvas = np.full((lines * columns, count, height, width, 3), 255, np.uint8)
    canvas[:items] = images
    # (lines, columns, P, S, S, 3) → (lines, S, columns, P, S, 3)
    canvas = canvas.reshape(lines, columns, count, height, width, 3).transpose(0, 3, 1, 2, 4, 5)
    image = Image.fromarray(canvas.reshape(lines * height, columns * count * width, 3))
    return image.resize((image.width * upscale, image.height * upscale), Image.Resampling.NEAREST)


def picture_format(path: Path) -> str:
    """PNG or JPEG, by a picture's name. Raises InputError where it is neither's."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: a picture's name ends in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def save_whole(picture: Image.Image, path: Path) -> None:
    """Write a PNG or JPEG, whole or not at all. Raises InputError on other names."""
    file_format = picture_format(path)
    with whole_file(path) as partial:
        picture.save(partial, format=file_format, quality=QUALITY)
