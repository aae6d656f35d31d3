"""Tables of systems by metrics: Markdown for people, CSV and JSON for programs."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lightning_modules.evaluation.scoring import Scores
from lightning_modules.evaluation.statistics import Estimate, by_yaw, estimates, names_of
from lightning_modules.evaluation.subjects import Protocol

LESSER = ("_pitch_degrees", "_roll_degrees")
ORDER = ("LPIPS", "DISTS", "SSIM", "PSNR", "ID", "POSE", "FID", "KID")


@dataclass(frozen=True)
class Published:
    """A row that others have published: not measured here.

    Args:
        name: the system
        values: its figures by metric
        resolution: the side of the images that they were measured at
        source: where they stand, e.g. "Table 1, arXiv 2312.13016v4"
        protocol: of which they are; the table's by default
    """

    name: str
    values: dict[str, float]
    resolution: int
    source: str
    protocol: Protocol | None = None


@dataclass(frozen=True)
class Row:
    """A system's line. `published` names the source of figures that were not measured here."""

    name: str
    protocol: str
    resolution: int
    subjects: int
    views: int
    values: dict[str, Estimate]
    failures: dict[str, int] = field(default_factory=dict)
    higher: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    published: str | None = None


def measured(name: str, scores: Scores) -> Row:
    """The line of what was scored here."""
    predictions = scores.predictions
    return Row(
        name,
        predictions.protocol,
        scores.size,
        len(predictions.subjects()),
        len(predictions.views),
        estimates(scores),
        scores.failures,
        scores.higher,
        scores.notes,
    )


def quoted(row: Published, protocol: Protocol) -> Row:
    """The line of a published row, in a table of this protocol."""
    values = {name: Estimate(value, np.nan, np.nan, 0) for name, value in row.values.items()}
    return Row(row.name, row.protocol or protocol, row.resolution, 0, 0, values, published=row.source)


def columns(rows: Sequence[Row]) -> list[str]:
    """The metrics of any row."""
    return ordered(list(dict.fromkeys(name for row in rows for name in row.values)))


def ordered(names: Sequence[str]) -> list[str]:
    """Metrics in the paper's order, a metric's variants behind it."""

    def place(name: str) -> tuple[int, int]:
        family = next((i for i, start in enumerate(ORDER) if name.startswith(start)), len(ORDER))
        return family, names.index(name)

    return sorted(names, key=place)


def markdown(title: str, rows: Sequence[Row]) -> str:
    """The table as Markdown: means with 95 % intervals; then what was not found, and notes. Errors of single
    angles but the yaw's are left to the other files: they would make it too wide to be read."""
    names = [name for name in columns(rows) if not name.endswith(LESSER)]
    higher = {name: up for row in rows for name, up in row.higher.items()}
    arrows = {name: {True: " ↑", False: " ↓"}.get(higher.get(name), "") for name in names}
    head = ["system", "protocol", "size", "subjects", "views", *(f"{name}{arrows[name]}" for name in names)]
    lines = [f"# {title}", "", f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    for row in rows:
        shown = f"{row.name} (published: {row.published})" if row.published else row.name
        counts = ["", ""] if row.published else [str(row.subjects), str(row.views)]
        cells = [_cell(row.values.get(name)) for name in names]
        lines.append(f"| {' | '.join([shown, row.protocol, str(row.resolution), *counts, *cells])} |")
    lines += ["", "Means, with 95 % intervals of a bootstrap over subjects."]
    lines += [f"- {row.name}: {note}" for row in rows for note in row.notes]
    return "\n".join(lines) + "\n"


def _cell(value: Estimate | None) -> str:
    if value is None:
        return ""
    digits = f"{value.mean:.4g}"
    if np.isnan(value.low):
        return digits
    return f"{digits} [{value.low:.4g}, {value.high:.4g}]"


def csv_table(rows: Sequence[Row]) -> str:
    """One line for each system and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["system", "published", "protocol", "size", "metric", "mean", "low", "high", "views"])
    for row in rows:
        for name, value in row.values.items():
            ends = [_number(x) for x in (value.mean, value.low, value.high)]
            writer.writerow([row.name, row.published, row.protocol, row.resolution, name, *ends, value.count])
    return file.getvalue()


def view_table(scores: Scores) -> str:
    """One line for each view: CSV that spreadsheets sort by worst case."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = names_of(scores.views)
    writer.writerow(["subject", "view", "yaw", "pitch", "native_size", *names])
    for view in scores.views:
        cells = [_number(view.scores.get(name, np.nan)) for name in names]
        place = [_number(view.yaw), _number(view.pitch), view.native]
        writer.writerow([view.view.subject, view.view.view, *place, *cells])
    return file.getvalue()


def json_table(title: str, rows: Sequence[Row], scored: dict[str, Scores]) -> str:
    """Everything in the tables, and the means by yaw; numbers that are not finite are null."""
    yaw = {
        name: {metric: by_yaw(scores.views, metric) for metric in names_of(scores.views)}
        for name, scores in scored.items()
    }
    content = {"title": title, "rows": [asdict(row) for row in rows], "by_yaw": yaw}
    return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
