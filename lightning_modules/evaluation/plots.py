"""Shared functions for plots by matplotlib: figures, curves, axes, and conversion to Pillow images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 100
FEW_POINTS = 30  # a curve with more of them has no markers
TITLE_SIZE, TICK_SIZE = 8, 7  # points
GRID = "#cccccc"

Points = Sequence[tuple[float, float]]
"""Points (x, y) of a curve, sorted by x."""


def new_figure(width: int, height: int, **options: Any) -> Figure:
    """A figure of `width` x `height` pixels that does not depend on a display."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure


def draw_curve(axes: Axes, points: Points, **style: Any) -> None:
    """Draw a curve, with markers if it has few points."""
    x, y = np.array(points, dtype=np.float64).T
    marker = "o" if len(points) <= FEW_POINTS else None
    axes.plot(x, y, marker=marker, markersize=3, linewidth=1.2, **style)


def style_axes(axes: Axes, title: str) -> None:
    """Set a title, small labels and a grid."""
    axes.set_title(title, fontsize=TITLE_SIZE, loc="left")
    axes.tick_params(labelsize=TICK_SIZE)
    axes.grid(color=GRID, linewidth=0.5)


def to_picture(figure: Figure) -> Image.Image:
    """Convert a figure to an RGB image."""
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
