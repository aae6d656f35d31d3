"""Figures of a comparison: measured and published values of every system, and views of all systems."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from PIL import Image

from core.lists import spread
from lightning_modules.evaluation.plots import TICK_SIZE, new_figure, style_axes, to_picture
from lightning_modules.evaluation.scoring import Scores
from lightning_modules.evaluation.statistics import Estimate
from lightning_modules.evaluation.tables import ARROWS, MEMORY, SECONDS, Row, columns
from portraits.alignment.photos import open_photo
from portraits.cameras import angles
from portraits.contact_sheet import case_sheet
from portraits.predictions import Predictions, View

WIDTH, LINE, HEAD = 420, 22, 46  # pixels of a plot: its width, a system's line, and title and ticks
NAMES_WIDTH = 150  # pixels for the systems' names
SUBJECTS = 4
SHEET_TILES = (128, 256)  # smallest and largest side of a tile of a sheet, in pixels
HIDDEN = ("_degrees",)  # endings of metrics that have no plot
FROM_ZERO = (SECONDS, MEMORY)  # metrics with an axis from 0, so that distances show ratios
MARGIN = 0.05  # on the right of it, as a share of the axis
NO_SCORE = "could not be scored"
MEASURED = {"color": "C0", "marker": "o", "markersize": 5}
PUBLISHED = {"color": "C1", "marker": "D", "markersize": 5, "fillstyle": "none"}


def comparison_figure(rows: Sequence[Row]) -> Image.Image | None:
    """A plot for each protocol and each of its metrics, with a line for each system: a dot with its interval
    for the measured value, a diamond for the published one. None if nothing is published or compared.

    Measured and published values share a plot only if their metric has the same weights."""
    metrics = [name for name in columns(rows) if not name.endswith(HIDDEN)]
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    if len({row.system for row in rows}) < 2 and not any(row.published for row in rows):
        return None
    lines = {protocol: _lines([row for row in rows if row.protocol == protocol]) for protocol in protocols}
    height = HEAD + LINE * max(len(systems) for systems in lines.values())
    figure = new_figure(len(protocols) * WIDTH + NAMES_WIDTH, len(metrics) * height + HEAD)
    plots = figure.subplots(len(metrics), len(protocols), squeeze=False)
    higher = {name: up for row in rows for name, up in row.higher.items()}
    for metric, plots_of_metric in zip(metrics, plots, strict=True):
        for protocol, axes in zip(protocols, plots_of_metric, strict=True):
            arrow = ARROWS[higher.get(metric)]
            if any(metric in row.values for rows_of_line in lines[protocol].values() for row in rows_of_line):
                _draw(axes, f"{protocol.replace('_', ' ')}: {metric}{arrow}", metric, lines[protocol])
            else:
                axes.set_axis_off()
    marks = [
        Line2D([], [], label="measured here, with its 95 % interval", linewidth=1.5, **MEASURED),
        Line2D([], [], label="published", linestyle="", **PUBLISHED),
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=2, fontsize=9, frameon=False)
    return to_picture(figure)


def _lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each line: a measured row, and the published one of the same system. Several measured rows
    of one system have separate lines."""
    measured = [row for row in rows if row.published is None]
    systems = [row.system for row in measured]
    lines = {row.name if systems.count(row.system) > 1 else row.system: [row] for row in measured}
    for row in rows:
        if row.published is not None:
            lines.setdefault(row.system, []).append(row)
    return lines


def _draw(axes: Axes, title: str, metric: str, lines: Mapping[str, Sequence[Row]]) -> None:
    style_axes(axes, title)
    axes.set_yticks(range(len(lines)), list(lines))
    axes.set_ylim(len(lines) - 0.5, -0.5)
    for place, rows in enumerate(lines.values()):
        for row in rows:
            value = row.values.get(metric)
            if value is None:
                continue
            if not np.isfinite(value.mean):
                # x in fractions of the plot, y in lines
                at = axes.get_yaxis_transform()
                axes.text(0.02, place, NO_SCORE, fontsize=TICK_SIZE, color="gray", va="center", transform=at)
            elif row.published is None:
                _draw_interval(axes, place, value)
            else:
                axes.plot(value.mean, place, **PUBLISHED)
    if metric in FROM_ZERO:
        axes.set_xlim(0, axes.dataLim.x1 * (1 + MARGIN))


def _draw_interval(axes: Axes, place: int, value: Estimate) -> None:
    axes.plot(value.mean, place, **MEASURED)
    if np.isfinite(value.low):
        axes.plot([value.low, value.high], [place, place], color=MEASURED["color"], linewidth=1.5)


def system_sheets(scored: Mapping[str, Scores], systems: Mapping[str, str]) -> dict[str, Image.Image]:
    """A sheet for each set of rows over the same views, by the name of the first row: four subjects by all
    systems, each at the view that turns the farthest. `systems` has the system of every row."""
    by_views: dict[tuple[str, ...], dict[str, Predictions]] = {}
    for name, scores in scored.items():
        views = tuple(view.name for view in scores.predictions.views)
        by_views.setdefault(views, {})[name] = scores.predictions
    return {next(iter(rows)): _sheet(rows, systems) for rows in by_views.values() if len(rows) > 1}


def _sheet(rows: Mapping[str, Predictions], systems: Mapping[str, str]) -> Image.Image:
    first = next(iter(rows.values()))
    subjects = list(first.subjects().values())
    chosen = [_farthest(subjects[number]) for number in spread(len(subjects), SUBJECTS)]
    inputs = [kind for kind in ("reference", "truth") if all(kind in view.files for view in chosen)]
    cases = {}
    for view in chosen:
        given = [open_photo(first.folder / view.files[kind]) for kind in inputs]
        cases[_caption(view)] = [*given, *(open_photo(made.folder / view.image) for made in rows.values())]
    shown = [systems[name] for name in rows]
    names = [name if shown.count(systems[name]) > 1 else systems[name] for name in rows]
    smallest, largest = SHEET_TILES
    side = max(image.width for images in cases.values() for image in images)
    return case_sheet([*inputs, *names], cases, min(max(side, smallest), largest))


def _caption(view: View) -> str:
    yaw = "" if view.camera is None else f"  yaw {_yaw(view):+.0f}°"
    return f"{view.name}{yaw}"


def _farthest(views: Sequence[View]) -> View:
    """The view whose camera turns the farthest from the front."""
    return views[int(np.argmax([abs(_yaw(view)) for view in views]))]


def _yaw(view: View) -> float:
    """The yaw of a view's camera in degrees; 0 where it has none."""
    return 0.0 if view.camera is None else float(np.degrees(angles(np.array(view.camera))[0]))
