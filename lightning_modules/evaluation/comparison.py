"""Figures of a comparison: measured and published values of every system, and views of all systems."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from core.lists import spread
from lightning_modules.evaluation.plots import new_figure, style_axes, to_picture
from lightning_modules.evaluation.scoring import Scores
from lightning_modules.evaluation.statistics import Estimate
from lightning_modules.evaluation.tables import ARROWS, Row, columns
from portraits.alignment.photos import open_photo
from portraits.cameras import angles
from portraits.contact_sheet import case_sheet
from portraits.predictions import Predictions, View

WIDTH, LINE, HEAD = 420, 22, 46  # pixels of a plot: its width, a system's line, and title and ticks
NAMES_WIDTH = 150  # pixels for the systems' names
SUBJECTS = 4
HIDDEN = ("_degrees",)  # endings of metrics that have no plot
MEASURED, PUBLISHED = "C0", "C1"


def comparison_figure(rows: Sequence[Row]) -> Image.Image | None:
    """A plot for each protocol and metric, with a line for each system: a dot with its interval for the
    measured value, a diamond for the published one. None if nothing is published or compared.

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
            _draw(axes, f"{protocol}: {metric}{arrow}", metric, lines[protocol])
    figure.suptitle("● measured here, 95 % interval     ◆ published", fontsize=9, x=0.01, ha="left")
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
            if value is None or not np.isfinite(value.mean):
                continue
            if row.published is None:
                _draw_interval(axes, place, value)
            else:
                axes.plot(value.mean, place, marker="D", markersize=5, color=PUBLISHED, fillstyle="none")


def _draw_interval(axes: Axes, place: int, value: Estimate) -> None:
    axes.plot(value.mean, place, marker="o", markersize=5, color=MEASURED)
    if np.isfinite(value.low):
        axes.plot([value.low, value.high], [place, place], color=MEASURED, linewidth=1.5)


def system_sheets(scored: Mapping[str, Scores]) -> dict[str, Image.Image]:
    """A sheet for each set of rows over the same views, by the name of the first row: four subjects by all
    systems, each at the view that turns the farthest."""
    by_views: dict[tuple[str, ...], dict[str, Predictions]] = {}
    for name, scores in scored.items():
        views = tuple(view.name for view in scores.predictions.views)
        by_views.setdefault(views, {})[name] = scores.predictions
    return {next(iter(rows)): _sheet(rows) for rows in by_views.values() if len(rows) > 1}


def _sheet(rows: Mapping[str, Predictions]) -> Image.Image:
    first = next(iter(rows.values()))
    subjects = list(first.subjects().values())
    chosen = [_farthest(subjects[number]) for number in spread(len(subjects), SUBJECTS)]
    inputs = [kind for kind in ("reference", "truth") if all(kind in view.files for view in chosen)]
    cases = {}
    for view in chosen:
        given = [open_photo(first.folder / view.files[kind]) for kind in inputs]
        cases[view.name] = [*given, *(open_photo(made.folder / view.image) for made in rows.values())]
    return case_sheet([*inputs, *rows], cases)


def _farthest(views: Sequence[View]) -> View:
    """The view whose camera turns the farthest from the front."""
    yaws = [0.0 if view.camera is None else abs(angles(np.array(view.camera))[0]) for view in views]
    return views[int(np.argmax(yaws))]
