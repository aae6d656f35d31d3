"""Tables of systems by metrics, as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from core.errors import InputError
from lightning_modules.evaluation.scoring import Scores
from lightning_modules.evaluation.settings import PublishedRow, PublishedTable
from lightning_modules.evaluation.statistics import Estimate, estimates, means_by_yaw, metrics_of
from metrics.suite import higher_is_better
from portraits.predictions import Predictions, Protocol

ARROWS = {True: " ↑", False: " ↓", None: ""}  # suffix of a metric's name, by its direction
NOT_IN_MARKDOWN = ("_pitch_degrees", "_roll_degrees")
SECONDS, MEMORY = "seconds/view", "peak GiB"
ORDER = ("LPIPS", "DISTS", "SSIM", "PSNR", "ID", "POSE", "FID", "KID")


@dataclass(frozen=True)
class Row:
    """One row of a table. `values` and `failures` are by metric; `higher` is whether higher is better, by
    metric; `published` is the source of values that were not measured here; `system` identifies measured and
    published rows of one system."""

    name: str
    protocol: str
    resolution: int | None
    subjects: int
    views: int
    values: dict[str, Estimate]
    failures: dict[str, int] = field(default_factory=dict)
    higher: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    published: str | None = None
    system: str = ""


def measured_row(name: str, scores: Scores, system: str = "", notes: Sequence[str] = ()) -> Row:
    """The row of scores, with the cost of the predictions if it was measured, and `notes` before its own."""
    predictions = scores.predictions
    costs = cost_of(predictions)
    return Row(
        name,
        predictions.protocol,
        scores.size,
        len(predictions.subjects()),
        len(predictions.views),
        estimates(scores) | costs,
        scores.failures,
        scores.higher | dict.fromkeys(costs, False),
        [*notes, *scores.notes, *system_notes(predictions)],
        system=system,
    )


def cost_of(predictions: Predictions) -> dict[str, Estimate]:
    """Seconds and GiB per view, if the predictions were generated here."""
    cost, views = predictions.settings.get("cost"), len(predictions.views)
    if not isinstance(cost, dict):
        return {}
    values = {SECONDS: cost["seconds"], MEMORY: cost["peak_bytes"] / 2**30}
    return {name: Estimate(value, np.nan, np.nan, views) for name, value in values.items()}


def system_notes(predictions: Predictions) -> list[str]:
    """For baselines, a remark on the system, its native resolution and the licence of its weights."""
    system = predictions.settings.get("system")
    if not system:
        return []
    side = system["native_size"]
    return [f"{system['name']}, native resolution {side}x{side}; weights: {system['licence']}"]


def published_rows(tables: Sequence[PublishedTable], protocol: Protocol) -> list[Row]:
    """The rows of published tables; `protocol` is the default. Raises InputError for values of unknown
    metrics."""
    return [_published_row(table, row, protocol) for table in tables for row in table.rows]


def _published_row(table: PublishedTable, row: PublishedRow, protocol: Protocol) -> Row:
    higher = {name: higher_is_better(name) for name in row.values}
    unknown = [name for name, up in higher.items() if up is None]
    if unknown:
        raise InputError(f"published {table.source}: {row.name}: {', '.join(unknown)}: not a metric")
    values = {name: Estimate(value, np.nan, np.nan, 0) for name, value in row.values.items()}
    directions = {name: bool(up) for name, up in higher.items()}
    source = table.source
    return Row(
        row.name,
        row.protocol or protocol,
        table.resolution,
        0,
        0,
        values,
        higher=directions,
        published=source,
        system=row.name,
    )


def by_protocol(rows: Sequence[Row]) -> list[Row]:
    """The rows grouped by protocol, otherwise in their order."""
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    return sorted(rows, key=lambda row: protocols.index(row.protocol))


def _compared(rows: Sequence[Row]) -> bool:
    """Whether systems are compared: several were measured, or one has published values beside its own."""
    measured = {row.system for row in rows if row.published is None}
    return len(measured) > 1 or any(row.published and row.system in measured for row in rows)


def _shown(row: Row, compared: bool) -> str:
    """The name of a row in the table: in a comparison of systems, the system's name before the row's own."""
    if row.published is not None:
        return f"{row.name} (published: {row.published})"
    if not compared or row.name.startswith(row.system):
        return row.name
    return f"{row.system}, {row.name}"


def columns(rows: Sequence[Row]) -> list[str]:
    """The metrics of all rows."""
    return ordered(list(dict.fromkeys(name for row in rows for name in row.values)))


def ordered(names: Sequence[str]) -> list[str]:
    """Metrics in the paper's order, each followed by its variants."""

    def rank(name: str) -> tuple[int, int]:
        family = next((i for i, start in enumerate(ORDER) if name.startswith(start)), len(ORDER))
        return family, names.index(name)

    return sorted(names, key=rank)


def markdown(title: str, rows: Sequence[Row], remarks: Sequence[str] = ()) -> str:
    """The table as Markdown: means with 95 % confidence intervals, then the rows' notes and `remarks`.

    Errors of pitch and roll are only in the CSV and JSON files, to keep the table narrow.
    """
    names = [name for name in columns(rows) if not name.endswith(NOT_IN_MARKDOWN)]
    higher = {name: up for row in rows for name, up in row.higher.items()}
    arrows = {name: ARROWS[higher.get(name)] for name in names}
    head = ["system", "protocol", "size", "subjects", "views", *(f"{name}{arrows[name]}" for name in names)]
    lines = [f"# {title}", "", f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    compared = _compared(rows)
    for row in rows:
        shown = _shown(row, compared).replace("|", "\\|")
        counts = ["", ""] if row.published else [str(row.subjects), str(row.views)]
        cells = [_cell(row.values.get(name)) for name in names]
        size = "" if row.resolution is None else str(row.resolution)
        lines.append(f"| {' | '.join([shown, row.protocol, size, *counts, *cells])} |")
    lines += ["", "Means, with 95 % confidence intervals of a bootstrap over subjects."]
    lines += [f"- {_shown(row, compared)}: {note}" for row in rows for note in row.notes]
    if remarks:
        lines += ["", "Published values are quoted, not measured here. How their protocols differ:", ""]
        lines += [f"- {remark}" for remark in remarks]
    return "\n".join(lines) + "\n"


def _cell(value: Estimate | None) -> str:
    if value is None:
        return ""
    digits = f"{value.mean:.4g}"
    if np.isnan(value.low):
        return digits
    return f"{digits} [{value.low:.4g}, {value.high:.4g}]"


def csv_table(rows: Sequence[Row]) -> str:
    """The table as CSV: a line for each row and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["system", "published", "protocol", "size", "metric", "mean", "low", "high", "views"])
    for row in rows:
        for name, value in row.values.items():
            ends = [_number(x) for x in (value.mean, value.low, value.high)]
            writer.writerow([row.name, row.published, row.protocol, row.resolution, name, *ends, value.count])
    return file.getvalue()


def view_table(scores: Scores) -> str:
    """The scores as CSV, with a line for each view."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = metrics_of(scores.views)
    writer.writerow(["subject", "view", "yaw", "pitch", "native_size", *names])
    for view in scores.views:
        cells = [_number(view.scores.get(name, np.nan)) for name in names]
        place = [_number(view.yaw), _number(view.pitch), view.native]
        writer.writerow([view.view.subject, view.view.view, *place, *cells])
    return file.getvalue()


def json_table(
    title: str, rows: Sequence[Row], scored: Mapping[str, Scores], remarks: Sequence[str] = ()
) -> str:
    """The table as JSON, with the means by yaw; numbers that are not finite become null."""
    yaw = {
        name: {metric: means_by_yaw(scores.views, metric) for metric in metrics_of(scores.views)}
        for name, scores in scored.items()
    }
    rows_as_json = [asdict(row) for row in rows]
    content = {"title": title, "rows": rows_as_json, "by_yaw": yaw, "remarks": list(remarks)}
    return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
