"""Pictures of an evaluation: scores by yaw, and the views with the worst scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightning_modules.evaluation.scoring import Scores
from lightning_modules.evaluation.statistics import YAW_EDGES, by_yaw, worst
from shards.alignment.photos import open_photo

PAPER, INK, FAINT = "white", "black", "#cccccc"
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")
PANEL, LEFT, TOP, BOTTOM = (360, 220), 56, 26, 24
LINE = 16
SHOWN = ("reference", "condition", "truth", "image")
MARGIN, CAPTION = 4, 14


def yaw_plot(scored: Mapping[str, Scores], metrics: Sequence[str]) -> Image.Image:
    """A panel for each metric: means by the camera's yaw, a line for each system."""
    curves = {
        metric: {name: by_yaw(scores.views, metric) for name, scores in scored.items()} for metric in metrics
    }
    drawn = {metric: lines for metric, lines in curves.items() if any(lines.values())}
    columns = min(2, max(len(drawn), 1))
    rows = max(-(-len(drawn) // columns), 1)
    legend = LINE * len(scored) + 8
    plot = Image.new("RGB", (columns * PANEL[0], rows * PANEL[1] + legend), PAPER)
    draw = ImageDraw.Draw(plot)
    for number, (metric, lines) in enumerate(drawn.items()):
        corner = (number % columns * PANEL[0], number // columns * PANEL[1])
        _panel(draw, corner, metric, list(lines.values()))
    for number, name in enumerate(scored):
        y = rows * PANEL[1] + 4 + number * LINE
        draw.line((LEFT, y + 6, LEFT + 24, y + 6), fill=COLOURS[number % len(COLOURS)], width=3)
        draw.text((LEFT + 32, y), name, INK, ImageFont.load_default(11))
    return plot


def _panel(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    title: str,
    lines: Sequence[Sequence[tuple[float, float, int]]],
) -> None:
    """One metric's axes and curves."""
    font = ImageFont.load_default(11)
    left, top = corner[0] + LEFT, corner[1] + TOP
    right, bottom = corner[0] + PANEL[0] - 10, corner[1] + PANEL[1] - BOTTOM
    values = [value for line in lines for _, value, _ in line]
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room

    def place(yaw: float, value: float) -> tuple[float, float]:
        across = (yaw - YAW_EDGES[0]) / (YAW_EDGES[-1] - YAW_EDGES[0])
        return left + across * (right - left), bottom - (value - low) / (high - low) * (bottom - top)

    draw.text((left, corner[1] + 8), f"{title} by yaw", INK, font)
    for value in np.linspace(low + room, high - room, 3):
        y = place(0, float(value))[1]
        draw.line((left, y, right, y), fill=FAINT)
        draw.text((corner[0] + 4, y - 7), f"{value:.3g}", INK, font)
    for yaw in range(-60, 61, 30):
        x = place(yaw, low)[0]
        draw.line((x, top, x, bottom), fill=FAINT)
        draw.text((x - 10, bottom + 4), f"{yaw:+d}°", INK, font)
    draw.rectangle((left, top, right, bottom), outline=INK)
    for number, line in enumerate(lines):
        points = [place(yaw, value) for yaw, value, _ in line]
        colour = COLOURS[number % len(COLOURS)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)


def worst_sheet(scores: Scores, metric: str, count: int = 12, side: int = 128) -> Image.Image:
    """The worst views by a metric, a row each: reference, condition, truth, prediction, as far as there."""
    views = worst(scores, metric, count)
    folder = scores.predictions.folder
    step = side + MARGIN
    sheet = Image.new("RGB", (len(SHOWN) * step, len(views) * (step + CAPTION) + CAPTION), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(10)
    for column, kind in enumerate(SHOWN):
        draw.text((column * step + 2, 1), "prediction" if kind == "image" else kind, INK, font)
    for row, scored in enumerate(views):
        top = CAPTION + row * (step + CAPTION)
        for column, kind in enumerate(SHOWN):
            name = getattr(scored.view, kind)
            if name is not None:
                tile = open_photo(folder / name).resize((side, side), Image.Resampling.BICUBIC)
                sheet.paste(tile, (column * step, top))
        value = scored.scores.get(metric, np.nan)
        found = "no score" if np.isnan(value) else f"{value:.3g}"
        yaw = "" if np.isnan(scored.yaw) else f"  yaw {scored.yaw:+.0f}°"
        draw.text((2, top + side), f"{metric} {found}{yaw}  {scored.view.name}", INK, font)
    return sheet
