"""Line plots, drawn without a plotting library: small, and the same on every machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = "white", "black", "#cccccc"
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")
LEFT, RIGHT, TOP, BOTTOM = 56, 10, 26, 24
FINER = 2  # drawn so much larger, then scaled down: Pillow's lines have hard edges
LINES = 3  # of the scale

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """What runs across, from `low` to `high`, and the names of some places on it."""

    low: float
    high: float
    ticks: Mapping[float, str]


def line_plot(
    title: str,
    curves: Sequence[Points],
    across: Axis,
    size: tuple[int, int] = (360, 220),
    colours: Sequence[str] = COLOURS,
    mark: tuple[float, float] | None = None,
) -> Image.Image:
    """Curves of finite values on a scale that fits them all; `mark` is a point with a ring around it."""
    canvas = Image.new("RGB", (size[0] * FINER, size[1] * FINER), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11 * FINER)
    left, top, right, bottom = (edge * FINER for edge in (LEFT, TOP, size[0] - RIGHT, size[1] - BOTTOM))
    values = [value for curve in curves for _, value in curve]
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0

    def place(x: float, value: float) -> tuple[float, float]:
        share = (x - across.low) / (across.high - across.low or 1)
        height = (value - low + room) / (high - low + 2 * room)
        return left + share * (right - left), bottom - height * (bottom - top)

    # above the scale, and further left where it is too long for that
    start = min(left, max(canvas.width - draw.textlength(title, font) - 4 * FINER, 0))
    draw.text((start, 8 * FINER), title, INK, font)
    marks = [float(value) for value in np.linspace(low, high, LINES)] if high > low else [low]
    for value, name in zip(marks, distinct(marks), strict=True):
        y = place(across.low, value)[1]
        draw.line((left, y, right, y), FAINT, FINER)
        draw.text((left - 4 * FINER, y), name, INK, font, anchor="rm")
    for x, name in across.ticks.items():
        column = place(x, low)[0]
        draw.line((column, top, column, bottom), FAINT, FINER)
        draw.text((column, bottom + 4 * FINER), name, INK, font, anchor="mt")
    draw.rectangle((left, top, right, bottom), outline=INK, width=FINER)
    for curve, colour in zip(curves, _cycled(colours, len(curves)), strict=True):
        _draw_curve(draw, [place(*point) for point in curve], colour)
    if mark is not None:
        _dot(draw, place(*mark), 4, None)
    return canvas.resize(size, Image.Resampling.LANCZOS)


def distinct(values: Sequence[float]) -> list[str]:
    """Numbers with three digits, or with as many more as it takes to tell them apart."""
    for digits in (3, 4, 5, 6):
        names = [f"{value:.{digits}g}" for value in values]
        if len(set(names)) == len(set(values)):
            break
    return names


def legend(names: Sequence[str], width: int) -> Image.Image:
    """The curves' names beside their colours, a line each."""
    line = 16
    picture = Image.new("RGB", (width, line * len(names) + 8), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, (name, colour) in enumerate(zip(names, _cycled(COLOURS, len(names)), strict=True)):
        y = 4 + number * line
        draw.line((LEFT, y + 6, LEFT + 24, y + 6), fill=colour, width=3)
        draw.text((LEFT + 32, y), name, INK, ImageFont.load_default(11))
    return picture


def tiled(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size side by side, `columns` in a line."""
    width, height = pictures[0].size
    columns = min(columns, len(pictures))
    whole = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), PAPER)
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % columns * width, number // columns * height))
    return whole


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one beneath the other."""
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), PAPER)
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def _draw_curve(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: str) -> None:
    if len(points) > 1:
        draw.line(points, fill=colour, width=2 * FINER, joint="curve")
    if len(points) <= 30:
        for point in points:
            _dot(draw, point, 2, colour)


def _dot(draw: ImageDraw.ImageDraw, middle: tuple[float, float], radius: int, fill: str | None) -> None:
    x, y, reach = *middle, radius * FINER
    draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill, outline=fill or INK, width=FINER)


def _cycled(colours: Sequence[str], count: int) -> list[str]:
    return [colours[number % len(colours)] for number in range(count)]
