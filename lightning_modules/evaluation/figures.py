"""Figures of an evaluation: scores by yaw, and the views with the worst scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from lightning_modules.evaluation.plots import draw_curve, new_figure, style_axes, to_picture
from lightning_modules.evaluation.scoring import Scores, ViewScore
from lightning_modules.evaluation.statistics import YAW_EDGES, means_by_yaw, worst
from portraits.alignment.photos import open_photo
from portraits.contact_sheet import case_sheet

COLUMNS, WIDTH, HEIGHT, LEGEND_LINE = 2, 420, 260, 20  # plots in a line; pixels of each
COLUMN_NAMES = {"reference": "reference", "condition": "condition", "truth": "truth", "image": "prediction"}


def yaw_figure(scored: Mapping[str, Scores], metrics: Sequence[str]) -> Image.Image | None:
    """A plot for each metric of its mean by the camera's yaw, with a curve for each row; None if no view has
    both a camera and a score."""
    curves = {
        metric: {name: means_by_yaw(scores.views, metric) for name, scores in scored.items()}
        for metric in metrics
    }
    curves = {metric: rows for metric, rows in curves.items() if any(rows.values())}
    if not curves:
        return None
    columns = min(COLUMNS, len(curves))
    lines = -(-len(curves) // columns)
    figure = new_figure(columns * WIDTH, lines * HEIGHT + LEGEND_LINE * len(scored))
    plots = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, (metric, rows) in zip(plots, curves.items(), strict=False):
        style_axes(axes, metric)
        axes.set_xlim(YAW_EDGES[0], YAW_EDGES[-1])
        axes.set_xticks(range(-60, 61, 30), [f"{yaw:+d}°" for yaw in range(-60, 61, 30)])
        for number, (name, points) in enumerate(rows.items()):
            # rows without points are drawn too, so that colours are the same in all plots and the legend
            style = {"color": f"C{number}", "label": name}
            draw_curve(axes, [(yaw, mean) for yaw, mean, _ in points] or [(np.nan, np.nan)], **style)
    for axes in plots[len(curves) :]:
        axes.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", fontsize=8)
    return to_picture(figure)


def worst_sheet(scores: Scores, metric: str, count: int = 12) -> Image.Image:
    """The views with the worst scores by a metric, one per line: reference, condition, truth and prediction,
    if available."""
    views = worst(scores, metric, count)
    kinds = [kind for kind in COLUMN_NAMES if any(getattr(scored.view, kind) is not None for scored in views)]
    cases = {_caption(scored, metric): [_tile(scores, scored, kind) for kind in kinds] for scored in views}
    return case_sheet([COLUMN_NAMES[kind] for kind in kinds], cases)


def _caption(scored: ViewScore, metric: str) -> str:
    value = scored.scores.get(metric, np.nan)
    result = "no score" if np.isnan(value) else f"{value:.3g}"
    yaw = "" if np.isnan(scored.yaw) else f"  yaw {scored.yaw:+.0f}°"
    return f"{metric} {result}{yaw}  {scored.view.name}"


def _tile(scores: Scores, scored: ViewScore, kind: str) -> Image.Image | None:
    name = getattr(scored.view, kind)
    return None if name is None else open_photo(scores.predictions.folder / name)
