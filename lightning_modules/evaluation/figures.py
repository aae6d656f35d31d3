"""Pictures of an evaluation: scores by yaw, and the views with the worst scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from lightning_modules.evaluation.plots import COLOURS, Axis, legend, line_plot, stacked, tiled
from lightning_modules.evaluation.scoring import Scores, ViewScore
from lightning_modules.evaluation.statistics import YAW_EDGES, by_yaw, worst
from portraits.alignment.photos import open_photo
from portraits.contact_sheet import case_sheet

YAW = Axis(YAW_EDGES[0], YAW_EDGES[-1], {yaw: f"{yaw:+d}°" for yaw in range(-60, 61, 30)})
COLUMNS = 2
KINDS = {"reference": "reference", "condition": "condition", "truth": "truth", "image": "prediction"}


def yaw_plot(scored: Mapping[str, Scores], metrics: Sequence[str]) -> Image.Image | None:
    """A panel for each metric: means by the camera's yaw, a line for each system; None where no view has both
    a camera and a score."""
    panels = []
    for metric in metrics:
        lines = {name: by_yaw(scores.views, metric) for name, scores in scored.items()}
        if any(lines.values()):
            # a system without any keeps its place, so that colours are those of the legend
            drawn = [(COLOURS[i % len(COLOURS)], line) for i, line in enumerate(lines.values()) if line]
            curves = [[(yaw, value) for yaw, value, _ in line] for _, line in drawn]
            panels.append(line_plot(f"{metric} by yaw", curves, YAW, colours=[c for c, _ in drawn]))
    if not panels:
        return None
    whole = tiled(panels, COLUMNS)
    return stacked([whole, legend(list(scored), whole.width)])


def worst_sheet(scores: Scores, metric: str, count: int = 12) -> Image.Image:
    """The worst views by a metric, a row each: reference, condition, truth, prediction, as far as any has
    one."""
    views = worst(scores, metric, count)
    kinds = [kind for kind in KINDS if any(getattr(scored.view, kind) is not None for scored in views)]
    cases = {_caption(scored, metric): [_tile(scores, scored, kind) for kind in kinds] for scored in views}
    return case_sheet([KINDS[kind] for kind in kinds], cases)


def _caption(scored: ViewScore, metric: str) -> str:
    value = scored.scores.get(metric, np.nan)
    found = "no score" if np.isnan(value) else f"{value:.3g}"
    yaw = "" if np.isnan(scored.yaw) else f"  yaw {scored.yaw:+.0f}°"
    return f"{metric} {found}{yaw}  {scored.view.name}"


def _tile(scores: Scores, scored: ViewScore, kind: str) -> Image.Image | None:
    name = getattr(scored.view, kind)
    return None if name is None else open_photo(scores.predictions.folder / name)
