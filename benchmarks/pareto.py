"""`python -m benchmarks.pareto`: quality of views against the time that they take, over settings of sampling.

Views of unseen people are generated with every preset, and every row of a YAML, from the same portraits,
cameras and seeds, and compared with the truth. Times are of the whole pipeline, from portrait to images:
processor seconds on a CPU, which other processes do not affect, and wall-clock seconds on a GPU.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from tqdm import tqdm

from benchmarks.sampling import clock
from core.devices import find_devices
from core.errors import InputError, one_line
from core.files import write_json, write_text
from lightning_modules.ablations import read_frames, sampled
from lightning_modules.evaluation.plots import new_figure, style_axes, to_picture
from lightning_modules.evaluation.tables import ARROWS
from lightning_modules.likeness import Likeness, RowScores
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.presets import read_presets
from lightning_modules.sampling.settings import Sampling
from portraits.contact_sheet import save_whole

BASE = "paper"
PSNR, LPIPS, ID, YAW = "PSNR", "LPIPS", "ID", "yaw error"
TICKS = (1, 2, 4, 6, 10, 15, 25)  # speed-ups marked on the axis
COLUMNS = {PSNR: ".2f", LPIPS: ".4f", ID: ".4f", YAW: ".1f"}


@dataclass(frozen=True)
class Point:
    """A row: seconds a view, and mean scores (the median of yaw errors in degrees)."""

    seconds: float
    scores: dict[str, float]

    def change(self, base: "Point", name: str) -> float:
        """The relative change of a score from that of another row."""
        return self.scores[name] / base.scores[name] - 1


def rows_to_measure(variants: str | None) -> dict[str, Sampling]:
    """The settings by row: the presets, but for those of LoRAs, then those of a YAML."""
    presets = {name: values for name, values in read_presets().items() if values.get("solver") != "lcm"}
    others = {} if variants is None else read_presets(variants)
    rows = {name: Sampling(**values) for name, values in (presets | others).items()}
    return {BASE: rows.pop(BASE), **rows}


def named_scores(scores: RowScores) -> dict[str, float]:
    """The scores of `COLUMNS` by plain name; a metric may carry that of its network,
    `LPIPS[efficientnet-lite0]`."""
    found = scores.estimates()
    plain = {re.sub(r"\[[^\]]*\]$", "", name): value.mean for name, value in found.items()}
    return {name: plain[name] for name in COLUMNS}


def table(points: Mapping[str, Point]) -> str:
    """A Markdown table of rows, in the order of speed."""
    base = points[BASE]
    titles = ["settings", "faster", "s a view", *COLUMNS, "LPIPS change", "ID change"]
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    for name, point in sorted(points.items(), key=lambda row: -row[1].seconds):
        cells = [name, f"{base.seconds / point.seconds:.1f}x", f"{point.seconds:.2f}"]
        cells += [format(point.scores[column], style) for column, style in COLUMNS.items()]
        cells += [f"{point.change(base, column):+.1%}" for column in (LPIPS, ID)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(points: Mapping[str, Point], presets: Sequence[str], path: Path) -> None:
    """Draw LPIPS and ID against the speed-up over the paper's settings; presets are larger and red."""
    base = points[BASE]
    figure = new_figure(1100, 420)
    for axes, column in zip(figure.subplots(1, 2), (LPIPS, ID), strict=True):
        for name, point in points.items():
            chosen = name in presets
            place = (base.seconds / point.seconds, point.scores[column])
            axes.plot(*place, "o", color="tab:red" if chosen else "tab:blue", markersize=8 if chosen else 5)
            axes.annotate(name, place, xytext=(4, 4), textcoords="offset points", fontsize=9 if chosen else 6)
        axes.set_xscale("log")
        axes.set_xticks(TICKS, [f"{tick}x" for tick in TICKS], minor=False)
        style_axes(axes, f"{column}{ARROWS[column == ID]} by speed-up over the paper's 100 steps")
    save_whole(to_picture(figure), path)


def benchmark(
    model: str = "checkpoints/mini",
    data: str = "shards/built/people",
    people: int = 8,
    views: int = 4,
    variants: str | None = "configs/sampling/pareto.yaml",
    out: str = "runs/pareto",
) -> str:
    """The table of all rows; `out` gets it as `table.md` and `table.json`, and the picture `pareto.png`.

    Args:
        model: a model folder
        data: a built folder of its image size, whose test people the model has not seen
        people: number of people
        views: views of each
        variants: YAML of settings to measure besides the presets; none measures the presets alone
        out: folder of the results
    """
    if people < 2 or views < 1:
        raise InputError(f"--people {people} --views {views}: give 2 people or more, and a view or more")
    rows = rows_to_measure(variants)
    (device,) = find_devices(1)
    pipeline = DiffPortrait3DPipeline.from_pretrained(model).to(device)
    batch = read_frames(data, people, views, pipeline.image_size)
    batch |= {"reference": batch["reference"][:, :1]}
    likeness, now = Likeness(batch), clock()
    sampled(pipeline, batch, Sampling(steps=1))  # warms up
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{people} people, {views} views of each, {model}, {device}:"
    points: dict[str, Point] = {}
    for name, sampling in tqdm(rows.items(), desc="settings", unit="row"):
        start = now()
        made = sampled(pipeline, batch, sampling)
        points[name] = Point((now() - start) / (people * views), named_scores(likeness.score(made)))
        write_json(folder / "table.json", {row: asdict(point) for row, point in points.items()})
        write_text(folder / "table.md", f"{title}\n\n{table(points)}\n")
    draw(points, list(read_presets()), folder / "pareto.png")
    return f"{title}\n\n{table(points)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(
        prog="python -m benchmarks.pareto", description="Quality against time, over settings of sampling."
    )
    parser.add_function_arguments(benchmark)
    settings: dict[str, Any] = parser.parse_args(arguments).as_dict()
    print(benchmark(**settings))


if __name__ == "__main__":
    with one_line():
        main()
