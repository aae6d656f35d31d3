"""The report of an evaluation: its files, and its tables and pictures in Weights & Biases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from core.files import write_text
from lightning_modules.evaluation.comparison import comparison_figure, system_sheets
from lightning_modules.evaluation.figures import worst_sheet, yaw_figure
from lightning_modules.evaluation.planning import EvaluationPlan
from lightning_modules.evaluation.scoring import Scores
from lightning_modules.evaluation.statistics import metrics_of
from lightning_modules.evaluation.tables import (
    Row,
    by_protocol,
    csv_table,
    json_table,
    markdown,
    measured_row,
    ordered,
    view_table,
)
from portraits.contact_sheet import save_whole

TABLE = "table"  # a file's name without its ending, and W&B's name after `evaluate/`
TABLE_JSON = f"{TABLE}.json"
SYSTEMS, DOTS, YAW = "systems", "dots", "yaw"  # the same of pictures
PLOTTED = ("SSIM", "LPIPS", "ID")  # with any weights; errors of yaw are plotted too


@dataclass(frozen=True)
class Report:
    """The rows of a table, and its figures by name."""

    rows: list[Row]
    pictures: dict[str, Image.Image]


def write_report(plan: EvaluationPlan, scored: Mapping[str, Scores]) -> Report:
    """Print the table and write `table.md`, `table.csv`, `table.json`, `yaw.png`, for every row `<row>.csv`
    and `<row>.worst.png`, and for a comparison of systems `dots.png` and `systems.png`."""
    measured = [measured_row(row.name, scored[row.name], row.system, row.notes) for row in plan.rows]
    rows = by_protocol([*measured, *plan.published])
    text = markdown(plan.title, rows, plan.remarks)
    write_text(plan.out / "table.md", text)
    write_text(plan.out / "table.csv", csv_table(rows))
    write_text(plan.out / TABLE_JSON, json_table(plan.title, rows, scored, plan.remarks))
    for name, scores in scored.items():
        write_text(plan.out / f"{name}.csv", view_table(scores))
    pictures = draw_pictures(scored, rows)
    for name, picture in pictures.items():
        save_whole(picture, plan.out / f"{name}.png")
    print(text)
    return Report(rows, pictures)


def draw_pictures(scored: Mapping[str, Scores], rows: Sequence[Row]) -> dict[str, Image.Image]:
    """The figures of a table by name: values of all systems, their views, scores by yaw, and the worst views
    of every row."""
    sheets = system_sheets(scored, {row.name: row.system for row in rows if row.published is None})
    pictures = {SYSTEMS if len(sheets) == 1 else f"{name}.{SYSTEMS}": sheet for name, sheet in sheets.items()}
    if figure := comparison_figure(rows):
        pictures[DOTS] = figure
    if figure := yaw_figure(scored, plotted_metrics(scored)):
        pictures[YAW] = figure
    for name, scores in scored.items():
        if metrics := metrics_of(scores.views):
            pictures[f"{name}.worst"] = worst_sheet(scores, ordered(metrics)[0])
    return pictures


def plotted_metrics(scored: Mapping[str, Scores]) -> list[str]:
    """The metrics whose means are plotted by yaw."""
    names = dict.fromkeys(name for scores in scored.values() for name in metrics_of(scores.views))
    return ordered([name for name in names if name.endswith("_yaw_degrees") or name.split("[")[0] in PLOTTED])


def logged_name(name: str) -> str:
    """The name of the table, or of a picture, in W&B."""
    return f"evaluate/{name}"


def log_report(report: Report, logger: WandbLogger) -> None:
    """Log the table, in a form that W&B can sort, and the figures."""
    data = [
        [row.name, row.published or "", row.protocol, row.resolution, name, v.mean, v.low, v.high]
        for row in report.rows
        for name, v in row.values.items()
    ]
    columns = ["system", "published", "protocol", "size", "metric", "mean", "low", "high"]
    logger.log_table(logged_name(TABLE), columns=columns, data=data)
    for name, picture in report.pictures.items():
        logger.log_image(logged_name(name), [picture])
    logger.experiment.finish()
