"""Contact sheets: grids of small images with captions. S image side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from core.errors import InputError
from core.files import whole_file
from core.lists import spread
from portraits.cameras import angles
from portraits.pixels import Images

MARGIN = 4
CAPTION = 14
GUTTER = 64
FONT = 10
MOST_VIEWS = 32
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
QUALITY = 85  # JPEG quality on Pillow's scale
PAPER = "white"
INK = "black"


@dataclass(frozen=True)
class Band:
    """Rows of images with a `title` above and a caption below each column.

    `rows` maps the name written to the left of a row to its images; None leaves a cell empty."""

    rows: Mapping[str, Sequence[Image.Image | None]] = field(default_factory=dict)
    captions: Sequence[str] = ()
    title: str = ""

    @property
    def columns(self) -> int:
        """Number of images in the longest row."""
        return max((len(images) for images in self.rows.values()), default=len(self.captions))

    def draw(self, columns: int, side: int, gutter: int) -> Image.Image:
        """Draw the band with tiles of `side` pixels, `columns` of them wide, and `gutter` pixels for row
        names."""
        step, top = side + MARGIN, CAPTION if self.title else 0
        beneath = top + len(self.rows) * step
        height = beneath + (CAPTION if self.captions else 0) + MARGIN
        picture = Image.new("RGB", (gutter + columns * step, height), PAPER)
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT)
        draw.text((0, 0), self.title, INK, font)
        for line, (name, images) in enumerate(self.rows.items()):
            draw.text((0, top + line * step + side // 2), name, INK, font)
            for column, image in enumerate(images):
                if image is not None:
                    picture.paste(tile(image, side), (gutter + column * step, top + line * step))
        for column, caption in enumerate(self.captions):
            draw.text((gutter + column * step, max(0, beneath - MARGIN)), caption, INK, font)
        return picture


def stack(bands: Sequence[Band], side: int = 128, gutter: int = 0, across: int = 1) -> Image.Image:
    """Draw bands in lines of `across` bands side by side."""
    columns = max(band.columns for band in bands)
    drawn = [band.draw(columns, side, gutter) for band in bands]
    lines = [drawn[start : start + across] for start in range(0, len(drawn), across)]
    width = min(across, len(drawn)) * drawn[0].width
    height = sum(max(picture.height for picture in line) for line in lines)
    sheet = Image.new("RGB", (MARGIN + width, MARGIN + height), PAPER)
    top = MARGIN
    for line in lines:
        for place, picture in enumerate(line):
            sheet.paste(picture, (MARGIN + place * picture.width, top))
        top += max(picture.height for picture in line)
    return sheet


def tile(image: Image.Image, side: int) -> Image.Image:
    """An image resized to `side` pixels square, as RGB."""
    return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def view_sheet(
    portraits: Sequence[Image.Image],
    rows: Mapping[str, Sequence[Image.Image]],
    captions: Sequence[str],
    columns: int = 8,
    side: int = 128,
) -> Image.Image:
    """One person's portraits and views, as in `view_bands`. Tiles are `side` pixels wide."""
    return stack(view_bands(portraits, rows, captions, columns), side, GUTTER)


def view_bands(
    portraits: Sequence[Image.Image],
    rows: Mapping[str, Sequence[Image.Image]],
    captions: Sequence[str],
    columns: int = 8,
) -> list[Band]:
    """A band of one person's portraits, and bands of `columns` views.

    Each of these has a row for each name in `rows` (conditions, views …) and a caption for each view. At most
    `MOST_VIEWS` evenly spaced views are shown.
    """
    shown = spread(len(captions), MOST_VIEWS, ends=True)
    bands = [Band({"portrait": portraits[:columns]})]
    for start in range(0, len(shown), columns):
        chosen = shown[start : start + columns]
        images = {name: [row[view] for view in chosen] for name, row in rows.items()}
        bands.append(Band(images, [captions[view] for view in chosen]))
    return bands


def case_sheet(
    kinds: Sequence[str], cases: Mapping[str, Sequence[Image.Image | None]], side: int = 128
) -> Image.Image:
    """One row for each case, with its caption below; `kinds` are the captions of the columns, shortened where
    they are wider than a tile. Tiles are `side` pixels wide."""
    bands = [Band({"": images}, [caption]) for caption, images in cases.items()]
    return stack([Band(captions=[_fitted(kind, side) for kind in kinds]), *bands], side)


def _fitted(text: str, width: int) -> str:
    """The text, or as much of its start as `width` pixels hold, with an ellipsis."""
    font = ImageFont.load_default(FONT)
    if font.getlength(text) <= width:
        return text
    length = len(text)
    while length and font.getlength(f"{text[:length]}…") > width:
        length -= 1
    return f"{text[:length]}…"


def camera_captions(cameras: ArrayLike) -> list[str]:
    """Yaw and pitch in degrees of every camera (K, 25)."""
    whole = np.degrees(angles(cameras)).round().astype(int)
    return [f"yaw {yaw:+d}  pitch {pitch:+d}" for yaw, pitch in whole]


def grid(images: Images, columns: int, upscale: int) -> Image.Image:
    """Images (B, P, S, S, 3) uint8 as one image without captions: `columns` of the B items in a line, the P
    images of each side by side."""
    items, count, height, width, _ = images.shape
    lines = -(-items // columns)
    canvas = np.full((lines * columns, count, height, width, 3), 255, np.uint8)
    canvas[:items] = images
    # (lines, columns, P, S, S, 3) → (lines, S, columns, P, S, 3)
    canvas = canvas.reshape(lines, columns, count, height, width, 3).transpose(0, 3, 1, 2, 4, 5)
    image = Image.fromarray(canvas.reshape(lines * height, columns * count * width, 3))
    return image.resize((image.width * upscale, image.height * upscale), Image.Resampling.NEAREST)


def picture_format(path: Path) -> str:
    """PNG or JPEG, by the suffix of a file name. Raises InputError for other suffixes."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: names of pictures end in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def save_whole(picture: Image.Image, path: Path) -> None:
    """Write a PNG or JPEG atomically. Raises InputError for other suffixes."""
    file_format = picture_format(path)
    with whole_file(path) as partial:
        picture.save(partial, format=file_format, quality=QUALITY)
