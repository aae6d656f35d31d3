"""A training run as one picture, drawn from the run's files; or a saved view in W&B.

`diffportrait3d dashboard RUN` draws the run in a folder such as `runs/stage2/version_0`, or the newest run
below a folder. It reads `metrics.csv` (Lightning's CSVLogger) and the newest pictures in `evaluation/` and
`pictures/`, needs no network, and also works during a run. Curves are grouped by the part of their name
before the last slash: the split and the protocol. `--wandb ENTITY/PROJECT` saves a view of a project in W&B
instead.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from core.errors import InputError, one_line
from core.lists import spread
from core.signals import EndAtOnce
from lightning_modules.evaluation.directions import higher_is_better
from lightning_modules.evaluation.plots import draw_curve, new_figure, style_axes, to_picture
from lightning_modules.evaluation.tables import NOT_IN_MARKDOWN, ordered
from lightning_modules.evaluation.unpack import frames_of
from portraits.contact_sheet import picture_format, save_whole

LOG, DASHBOARD = "metrics.csv", "dashboard.png"
WIDTH, COLUMNS = 1440, 6
PLOT_HEIGHT, HEADING_HEIGHT, TITLE_HEIGHT = 165, 28, 36  # pixels
HIDDEN = ("_failures", *NOT_IN_MARKDOWN)
RAW, SMOOTH = "#b8cfe2", "#1f77b4"
WINDOW = 15  # values in the running mean of a long curve
ORBIT_VIEWS = 12
PICTURES = 2  # shown side by side

Curve = list[tuple[float, float]]
"""Points (step, value), sorted by step."""


@dataclass(frozen=True)
class Strip:
    """Pictures side by side below a heading."""

    heading: str
    pictures: list[Image.Image]

    @property
    def height(self) -> int:
        """Height in pixels; pictures are scaled down to the page's width, but never up."""
        fitted = round(WIDTH / sum(picture.width / picture.height for picture in self.pictures))
        return min(fitted, max(picture.height for picture in self.pictures))


def dashboard(run: str, out: str | None = None) -> Path:
    """Draw a run, and return the path of the picture.

    Raises InputError if there is no such run, it has not logged anything yet, or `out` is neither PNG nor
    JPEG.

    Args:
        run: a run's folder, or a folder above it
        out: the picture to write, PNG or JPEG; `dashboard.png` in the run's folder by default
    """
    folder = find_run(Path(run))
    path = Path(out) if out is not None else folder / DASHBOARD
    picture_format(path)
    curves = read_log(folder / LOG)
    picture = draw_page(f"{folder.parent.name}/{folder.name}", curves, find_pictures(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_whole(picture, path)
    return path


def find_run(folder: Path) -> Path:
    """The folder with the newest log, `folder` or one below it. Raises InputError if there is none."""
    logs = sorted(folder.rglob(LOG), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise InputError(f"{folder}: no {LOG} in it or below; Lightning's CSVLogger writes it")
    return logs[-1].parent


def read_log(path: Path) -> dict[str, Curve]:
    """The curves of a CSV log, by name. Raises InputError on another file or one without a finite value."""
    try:
        text = path.read_text(encoding="utf-8")
        # the last line may be incomplete during a run
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        names = [name for name in (rows[0] if rows else ()) if name not in (None, "step", "epoch")]
        curves = {name: _curve(rows, name) for name in names}
    except (OSError, ValueError, OverflowError, csv.Error) as error:
        raise InputError(f"{path}: not a log of Lightning's CSVLogger ({error})") from error
    if not rows or "step" not in rows[0]:
        raise InputError(f"{path}: not a log of Lightning's CSVLogger, or nothing is logged yet")
    finite = {name: curve for name, curve in curves.items() if curve}
    if not finite:
        raise InputError(f"{path}: no finite value is logged yet, of {len(names)} names")
    return finite


def _curve(rows: Iterable[Mapping[str, str | None]], name: str) -> Curve:
    points = {int(row.get("step") or 0): float(value) for row in rows if (value := row.get(name))}
    return sorted((step, value) for step, value in points.items() if np.isfinite(value))


def sections(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of the curves that are drawn, by the part before the last slash: training, validation, then
    protocols."""
    grouped: dict[str, list[str]] = {}
    for name in names:
        if "/" in name and not any(part in name for part in HIDDEN):
            grouped.setdefault(name.rsplit("/", 1)[0], []).append(name)
    by_depth = sorted(grouped, key=lambda section: (section.count("/"), section))
    return {section: _ordered(grouped[section]) for section in by_depth}


def _ordered(names: Sequence[str]) -> list[str]:
    """Metrics in the order of the tables, followed by values without a direction."""
    short = {name.rsplit("/", 1)[-1]: name for name in names}
    directed_first = sorted(short, key=lambda name: higher_is_better(name) is None)
    return [short[name] for name in ordered(directed_first)]


def draw_page(title: str, curves: Mapping[str, Curve], strips: Sequence[Strip]) -> Image.Image:
    """A page with the plots of all curves by section, and strips of pictures below."""
    grouped = sections(curves)
    heights = [-(-len(names) // COLUMNS) * PLOT_HEIGHT for names in grouped.values()]
    heights = [height + HEADING_HEIGHT for height in (*heights, *(strip.height for strip in strips))]
    page = new_figure(WIDTH, TITLE_HEIGHT + sum(heights))
    last = max(int(curve[-1][0]) for curve in curves.values())
    page.suptitle(f"{title}   step {last}", x=0.01, ha="left", fontsize=14)
    parts = page.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (section, names) in zip(parts, grouped.items(), strict=False):
        _draw_section(part, section, {name: curves[name] for name in names})
    for part, strip in zip(parts[len(grouped) :], strips, strict=True):
        _draw_strip(part, strip)
    return to_picture(page)


def _draw_section(part: Figure | SubFigure, heading: str, curves: Mapping[str, Curve]) -> None:
    part.suptitle(heading, x=0.01, ha="left", fontsize=10)
    lines = -(-len(curves) // COLUMNS)
    plots = part.subplots(lines, COLUMNS, squeeze=False).flatten()
    for axes, (name, curve) in zip(plots, curves.items(), strict=False):
        draw_panel(axes, name, curve)
    for axes in plots[len(curves) :]:
        axes.set_axis_off()


def _draw_strip(part: Figure | SubFigure, strip: Strip) -> None:
    part.suptitle(strip.heading, x=0.01, ha="left", fontsize=10)
    ratios = [picture.width / picture.height for picture in strip.pictures]
    plots = part.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    for axes, picture in zip(plots, strip.pictures, strict=True):
        axes.imshow(np.asarray(picture))
        axes.set_anchor("W")
        axes.set_axis_off()


def draw_panel(axes: Axes, name: str, curve: Curve) -> None:
    """Draw one curve over the steps: a long one with its running mean, a short one with a ring around its
    best point."""
    smooth = running_mean(curve)
    averaged = smooth is not curve
    title, best = panel_title(name, smooth, averaged)
    style_axes(axes, title)
    axes.set_xlim(0, max(curve[-1][0], 1) * 1.04)
    if averaged:
        draw_curve(axes, curve, color=RAW)
    draw_curve(axes, smooth, color=SMOOTH)
    if best is not None and not averaged:
        axes.plot(*best, "o", markersize=8, fillstyle="none", color="black")


def panel_title(name: str, curve: Curve, averaged: bool = False) -> tuple[str, tuple[float, float] | None]:
    """A panel's title and the curve's best point.

    The title has the best value where the metric has a direction, and the last value otherwise, for which
    there is no best point.
    """
    short, higher = name.rsplit("/", 1)[-1], higher_is_better(name)
    kind = "mean " if averaged else ""
    if higher is None:
        return f"{short}  {kind}{curve[-1][1]:.4g}", None
    best = (max if higher else min)(curve, key=lambda point: point[1])
    return f"{short}  {kind}{'max' if higher else 'min'} {best[1]:.4g}", best


def running_mean(curve: Curve) -> Curve:
    """The running mean of a long curve; short curves are unchanged."""
    if len(curve) < 2 * WINDOW:
        return curve
    steps, values = np.array(curve).T
    sums = np.cumsum(np.insert(values, 0, 0.0))
    means = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW
    return list(zip(steps[WINDOW - 1 :].tolist(), means.tolist(), strict=True))


def find_pictures(folder: Path) -> list[Strip]:
    """The newest grid, worst views and other pictures of a run, and views of its newest orbit."""
    kinds = (("evaluation", "grid"), ("evaluation", "worst"), ("pictures", "*"))
    paths = [path for place, kind in kinds if (path := newest(folder / place, kind)) is not None][:PICTURES]
    strips = []
    if paths:
        pictures = [Image.open(path).convert("RGB") for path in paths]
        strips.append(Strip(" and ".join(path.stem for path in paths), pictures))
    orbit = newest(folder / "evaluation", "orbit")
    if orbit is not None:
        frames = frames_of(orbit)
        strips.append(Strip(orbit.stem, [frames[number] for number in spread(len(frames), ORBIT_VIEWS)]))
    return strips


def newest(folder: Path, kind: str) -> Path | None:
    """The file `<kind>-<step>.*` with the latest step in a folder."""
    # files that are being written begin with a dot
    complete = (path for path in folder.glob(f"{kind}-*") if not path.name.startswith("."))
    return max(complete, key=step_of, default=None)


def step_of(path: Path) -> int:
    """The training step in a picture's name; -1 if there is none."""
    match = re.search(r"-(\d+)$", path.stem)
    return int(match[1]) if match else -1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(
        prog="diffportrait3d dashboard",
        description="A run as one picture, or a view of all runs in W&B.",
    )
    parser.add_argument("run", nargs="?", type=str, help="a run's folder, or a folder above it")
    parser.add_argument(
        "--wandb",
        type=str,
        metavar="ENTITY/PROJECT",
        help="save a view in this project of W&B instead",
    )
    parser.add_function_arguments(dashboard, skip={"run"})
    chosen = parser.parse_args(arguments)
    if (chosen.run is None) == (chosen.wandb is None):
        raise InputError("give the folder of a run, or --wandb ENTITY/PROJECT")
    if chosen.wandb is None:
        print(dashboard(chosen.run, chosen.out))
        return
    with EndAtOnce():
        from callbacks.wandb_workspace import save_workspace  # imports all stages

    print(save_workspace(chosen.wandb))


if __name__ == "__main__":
    with one_line():
        main()
