"""`python -m callbacks.dashboard RUN`: one picture of a run, out of the files that it has left.

RUN is a run's folder, `runs/stage2/version_0`, or one above it, whose newest run is taken. Wanted are
`metrics.csv` (Lightning's CSVLogger) and, for the media, the folders `evaluation/` and `pictures/`. It works
while the run goes on, without a network, whatever other loggers there are. Curves stand together by what
comes before a name's last slash: by split and protocol.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from PIL import Image, ImageDraw, ImageFont

from core.errors import InputError, one_line
from core.lists import spread
from lightning_modules.evaluation.directions import higher_is_better
from lightning_modules.evaluation.plots import INK, PAPER, Axis, line_plot, stacked, tiled
from lightning_modules.evaluation.tables import LESSER, ordered
from lightning_modules.evaluation.unpack import frames_of
from portraits.contact_sheet import picture_format, save_whole

LOG, DASHBOARD = "metrics.csv", "dashboard.png"
WIDTH, COLUMNS = 1440, 6
PANEL = (WIDTH // COLUMNS, 150)
LEFT_OUT = ("_failures", *LESSER)
RAW, SMOOTH = "#b8cfe2", "#1f77b4"
WINDOW = 15  # values that a noisy curve is averaged over
ORBIT_VIEWS = 12
BESIDE = 2  # pictures in one row
MARGIN = 12

Curve = list[tuple[float, float]]
"""(step, value), by step."""


def dashboard(run: str, out: str | None = None) -> Path:
    """Draws a run; gives where the picture is. Raises InputError where there is no such run, or it has logged
    nothing yet, or the picture's name is neither PNG's nor JPEG's.

    Args:
        run: a run's folder, or one above it
        out: the picture's file, PNG or JPEG by its name; by default dashboard.png in the run's folder
    """
    folder = find_run(Path(run))
    path = Path(out) if out is not None else folder / DASHBOARD
    picture_format(path)
    curves = read_log(folder / LOG)
    parts = [_title(folder, curves)]
    for section, names in sections(curves).items():
        parts.append(_heading(section))
        parts.append(tiled([panel(name, curves[name]) for name in names], COLUMNS))
    parts += _media(folder)
    whole = stacked(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_whole(whole, path)
    return path


def find_run(folder: Path) -> Path:
    """The folder itself or the one below it whose log is the newest. Raises InputError where none has one."""
    logs = sorted(folder.rglob(LOG), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise InputError(f"{folder}: no {LOG} in it or below; Lightning's CSVLogger writes it")
    return logs[-1].parent


def read_log(path: Path) -> dict[str, Curve]:
    """The curves of a CSV log by name. Raises InputError on what is none, or has no finite value."""
    text = path.read_text(encoding="utf-8")
    # a line without an end is being written
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    if not rows or "step" not in rows[0]:
        raise InputError(f"{path}: it is no log of Lightning's CSVLogger, or nothing is logged yet")
    names = [name for name in rows[0] if name not in (None, "step", "epoch")]
    try:
        curves = {name: _curve(rows, name) for name in names}
    except ValueError as error:
        raise InputError(f"{path}: it is no log of Lightning's CSVLogger ({error})") from error
    found = {name: curve for name, curve in curves.items() if curve}
    if not found:
        raise InputError(f"{path}: no finite value is logged yet, of {len(names)} names")
    return found


def _curve(rows: Iterable[Mapping[str, str | None]], name: str) -> Curve:
    points = {int(row["step"] or 0): float(row[name]) for row in rows if row.get(name)}
    return sorted((step, value) for step, value in points.items() if np.isfinite(value))


def sections(names: Iterable[str]) -> dict[str, list[str]]:
    """The names to be drawn by what comes before their last slash: training, then validation, then
    protocols, a metric's variants behind it."""
    found: dict[str, list[str]] = {}
    for name in names:
        if "/" in name and not any(part in name for part in LEFT_OUT):
            found.setdefault(name.rsplit("/", 1)[0], []).append(name)
    return {section: _ordered(found[section]) for section in sorted(found, key=lambda s: (s.count("/"), s))}


def _ordered(names: Sequence[str]) -> list[str]:
    """What has a better way first, metrics in the order of the tables."""
    short = {name.rsplit("/", 1)[-1]: name for name in names}
    placed = ordered(sorted(short, key=lambda name: higher_is_better(name) is None))
    return [short[name] for name in placed]


def panel(name: str, curve: Curve) -> Image.Image:
    """One curve over the steps, a long one with its running mean, a short one with a ring at its best."""
    smooth, last = _smoothed(curve), curve[-1][0]
    across = Axis(0, max(last, 1), {0: "0", last: f"{last:g}"})
    title, best = told(name, smooth, "mean " if smooth is not curve else "")
    if smooth is not curve:
        return line_plot(title, [curve, smooth], across, PANEL, [RAW, SMOOTH])
    return line_plot(title, [curve], across, PANEL, [SMOOTH], best)


def told(name: str, curve: Curve, kind: str = "") -> tuple[str, tuple[float, float] | None]:
    """A panel's title, and the curve's best point, whose value is told where one way is better; the last
    value otherwise. `kind` says what values they are, before the word for which of them."""
    short, higher = name.rsplit("/", 1)[-1], higher_is_better(name)
    if higher is None:
        return f"{short}  {kind}{curve[-1][1]:.4g}", None
    best = (max if higher else min)(curve, key=lambda point: point[1])
    return f"{short}  {kind}{'max' if higher else 'min'} {best[1]:.4g}", best


def _smoothed(curve: Curve) -> Curve:
    """A running mean of a long curve; a short one as it is."""
    if len(curve) < 2 * WINDOW:
        return curve
    steps, values = np.array(curve).T
    sums = np.cumsum(np.insert(values, 0, 0.0))
    means = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW
    return list(zip(steps[WINDOW - 1 :].tolist(), means.tolist(), strict=True))


def _media(folder: Path) -> list[Image.Image]:
    """The newest of each kind of picture that the run has drawn."""
    shown: list[Image.Image] = []
    kinds = (("evaluation", "grid"), ("evaluation", "worst"), ("pictures", "*"))
    drawn = [path for place, kind in kinds if (path := newest(folder / place, kind)) is not None][:BESIDE]
    if drawn:
        pictures = [Image.open(path).convert("RGB") for path in drawn]
        shown += [_heading(" and ".join(path.stem for path in drawn)), _fitted(_side_by_side(pictures))]
    orbit = newest(folder / "evaluation", "orbit")
    if orbit is not None:
        frames = frames_of(orbit)
        chosen = [frames[number] for number in spread(len(frames), ORBIT_VIEWS)]
        shown += [_heading(orbit.stem), _fitted(tiled(chosen, ORBIT_VIEWS))]
    return shown


def newest(folder: Path, kind: str) -> Path | None:
    """The file `<kind>-<step>.*` of the latest step in a folder."""
    # a file that is being written has a name with a dot before it
    whole = (path for path in folder.glob(f"{kind}-*") if not path.name.startswith("."))
    return max(whole, key=step_of, default=None)


def step_of(path: Path) -> int:
    """The training step in a picture's name."""
    found = re.search(r"-(\d+)$", path.stem)
    return int(found[1]) if found else -1


def _fitted(picture: Image.Image) -> Image.Image:
    """A picture scaled down to the page's width, with room around it."""
    wide = WIDTH - 2 * MARGIN
    if picture.width > wide:
        height = round(picture.height * wide / picture.width)
        picture = picture.resize((wide, height), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (WIDTH, picture.height + MARGIN), PAPER)
    page.paste(picture, (MARGIN, 0))
    return page


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures at one height, the least of theirs."""
    height = min(picture.height for picture in pictures)
    scaled = [
        p.resize((round(p.width * height / p.height), height), Image.Resampling.LANCZOS) for p in pictures
    ]
    row = Image.new("RGB", (sum(p.width + MARGIN for p in scaled) - MARGIN, height), PAPER)
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + MARGIN
    return row


def _title(folder: Path, curves: Mapping[str, Curve]) -> Image.Image:
    last = max(int(curve[-1][0]) for curve in curves.values())
    return _text(f"{folder.parent.name}/{folder.name}   step {last}", 18, 36)


def _heading(text: str) -> Image.Image:
    return _text(text, 14, 28)


def _text(text: str, size: int, height: int) -> Image.Image:
    line = Image.new("RGB", (WIDTH, height), PAPER)
    ImageDraw.Draw(line).text((MARGIN, height - size - 6), text, INK, ImageFont.load_default(size))
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m callbacks.dashboard", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(dashboard, as_positional=True)
    print(dashboard(**parser.parse_args(arguments).as_dict()))


if __name__ == "__main__":
    with one_line():
        main()
