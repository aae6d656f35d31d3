"""A contact sheet of samples: views above their condition images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from portraits.cameras import angles
from portraits.contact_sheet import CAPTION, INK, MARGIN, PAPER, tile
from shards.schema import Sample


def sample_sheet(samples: Sequence[Sample], columns: int = 8, side: int = 128) -> Image.Image:
    """Two rows for each frame: `columns` of its views from left to right (by yaw) and, beneath, their
    conditions, each `side` pixels wide and captioned with yaw and pitch in degrees."""
    columns = min(columns, max(len(sample.views) for sample in samples))
    row = side + CAPTION
    height = len(samples) * (CAPTION + 2 * row + 2 * MARGIN)
    sheet = Image.new("RGB", (MARGIN + columns * (side + MARGIN), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(10)
    for number, sample in enumerate(samples):
        top = number * (CAPTION + 2 * row + 2 * MARGIN)
        draw.text((MARGIN, top + 1), f"{sample.key}  ({sample.meta.split})", INK, font)
        for column, view in enumerate(_by_yaw(sample, columns)):
            left = MARGIN + column * (side + MARGIN)
            yaw, pitch = np.degrees(angles(sample.cameras[view]))
            for half, images in enumerate((sample.views, sample.conditions)):
                sheet.paste(tile(images[view], side), (left, top + CAPTION + half * (side + MARGIN)))
            caption = f"yaw {yaw:+.0f}  pitch {pitch:+.0f}"
            draw.text((left, top + CAPTION + 2 * (side + MARGIN)), caption, INK, font)
    return sheet


def _by_yaw(sample: Sample, count: int) -> list[int]:
    """`count` views evenly spaced over those of the frame ordered by yaw."""
    order = np.argsort(angles(sample.cameras)[:, 0])
    return [int(order[i]) for i in np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]
