"""`python -m lightning_modules.evaluate --config configs/evaluate/table1.yaml --out DIR`: a model's or any
system's figures.

Writes `table.md`, `table.csv`, `table.json`, `yaw.png`, and for each row `<row>.csv` (every view) and
`<row>.worst.png`. What a model makes is kept in `<out>/samples-<digest>/`: scored again, it is not sampled
again, and an interrupted run goes on. `--predictions DIR…` scores what any system has made
(`portraits.predictions` says how such a folder looks).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from PIL import Image

from core.errors import InputError, one_line
from core.files import write_text
from lightning_modules.evaluation.figures import worst_sheet, yaw_plot
from lightning_modules.evaluation.sampling import Made, make
from lightning_modules.evaluation.scoring import Scores, Scoring, score
from lightning_modules.evaluation.statistics import names_of
from lightning_modules.evaluation.tables import (
    Published,
    Row,
    csv_table,
    json_table,
    markdown,
    measured,
    ordered,
    quoted,
    view_table,
)
from lightning_modules.loggers import wandb_logger
from metrics.suite import MetricSuite
from portraits.contact_sheet import save_whole
from portraits.predictions import Predictions

PLOTTED = ("LPIPS", "SSIM", "ID", "POSE_yaw_degrees", "POSE[label]_yaw_degrees")
TRUTH_FROM = "truth_from"
OWN_FILES = ("table", "yaw")
LONGEST_NAME = 200  # bytes; most file systems take 255, endings included


@dataclass(frozen=True)
class Evaluation:
    """A table: `rows` of one way to make and score predictions, changed in some settings each.

    Args:
        title: of the table
        made: how predictions are made
        scoring: how they are scored
        rows: by name, the settings that differ, e.g. {"random noise": {"made.sampling.noise": "random"}}; the
            setting truth_from names an earlier row whose predictions are the truth (B.4)
        published: rows to print beside, from others' tables
        predictions: folders of predictions to score instead of making any
        out: where everything goes
        part: "i/n" makes every n-th subject from the i-th on, and scores only when all are there
        device: cpu, or cuda
        wandb: whether the tables go to W&B too
    """

    title: str = "Evaluation"
    made: Made = field(default_factory=Made)
    scoring: Scoring = field(default_factory=Scoring)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    predictions: list[str] | None = None
    out: str = "runs/evaluate"
    part: str = "0/1"
    device: str | None = None
    wandb: bool = False


def evaluate(evaluation: Evaluation) -> Path | None:
    """Make, score, write; the folder of the tables comes back, None where other machines' parts are missing.
    Raises InputError."""
    out = Path(evaluation.out)
    device = evaluation.device or ("cuda" if torch.cuda.is_available() else "cpu")
    part = parse_part(evaluation.part)
    jobs = plan(evaluation)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: no folder can be made there: {error.strerror}") from error
    print(MetricSuite(evaluation.scoring.metrics).notice)
    found: dict[str, Predictions] = {}
    for name, (made, _, _) in jobs.items():
        predictions = (
            made if isinstance(made, Predictions) else make(made, out / folder_of(made), part, device)
        )
        if predictions is None:
            print(f"{out}: parts of {name!r} are missing still: run the others, then this one again")
            return None
        found[name] = predictions
    scored = {
        name: score(_with_truth(found, name, truth_from), scoring, device)
        for name, (_, scoring, truth_from) in jobs.items()
    }
    write(evaluation, out, scored)
    return out


Job = tuple[Made | Predictions, Scoring, str | None]


def plan(evaluation: Evaluation) -> dict[str, Job]:
    """What is made or read, and how it is scored, by row. Raises InputError on settings that are none."""
    if evaluation.predictions is not None:
        read = [Predictions.load(Path(folder)) for folder in evaluation.predictions]
        names = row_names([predictions.system for predictions in read])
        for name, some in zip(names, read, strict=True):
            if name != some.system:
                print(f"row {name!r}: system {some.system!r} of {some.folder}")
        return {name: (some, evaluation.scoring, None) for name, some in zip(names, read, strict=True)}
    rows = evaluation.rows or {name: {} for name in row_names([Path(evaluation.made.model).name])}
    jobs: dict[str, Job] = {}
    for name, changes in rows.items():
        check_row_name(name)
        truth_from = changes.get(TRUTH_FROM)
        if truth_from is not None and truth_from not in jobs:
            raise InputError(f"row {name!r}: {TRUTH_FROM} {truth_from!r} is no row above it")
        own = {key: value for key, value in changes.items() if key != TRUTH_FROM}
        changed = changed_settings(evaluation, own, name)
        jobs[name] = (changed.made, changed.scoring, truth_from)
    return jobs


def check_row_name(name: str) -> None:
    """Raise InputError on a name that no files of a row can have."""
    if not name.isprintable() or Path(name).name != name or name in ("", "..") or "\\" in name:
        raise InputError(f"row {name!r}: its name is a file's, without slashes")
    if name in OWN_FILES:
        raise InputError(f"row {name!r}: {', '.join(OWN_FILES)} are files of the table itself")
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(f"row {name!r}: its name is a file's, of {LONGEST_NAME} bytes at most")


def row_names(systems: Sequence[str]) -> list[str]:
    """A row's name for each system: its own, with dashes for slashes, numbered where it is taken. Raises
    InputError where no files can be called so."""
    names: list[str] = []
    for system in systems:
        plain = system.replace("/", "-").replace("\\", "-")
        taken = {*names, *OWN_FILES}
        numbered = (f"{plain} {number}" for number in count(2))
        name = plain if plain not in taken else next(name for name in numbered if name not in taken)
        check_row_name(name)
        names.append(name)
    return names


def changed_settings(evaluation: Evaluation, changes: Mapping[str, Any], row: str) -> Evaluation:
    """The evaluation with settings changed, by dotted names. Raises InputError on one that does not exist or
    a value of the wrong type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Made, "made")
    parser.add_class_arguments(Scoring, "scoring")
    base = {"made": asdict(evaluation.made), "scoring": asdict(evaluation.scoring)}
    for name, value in changes.items():
        *above, last = name.split(".")
        place: Any = base
        for key in above:
            place = place.get(key) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise InputError(f"row {row!r}: there is no setting {name}")
        place[last] = value
    try:
        built = parser.instantiate(parser.parse_object(base))
    except ArgumentError as error:
        raise InputError(f"row {row!r}: {' '.join(str(error).split())}") from error
    return replace(evaluation, made=built.made, scoring=built.scoring)


def folder_of(made: Made) -> str:
    """The name of the folder of predictions that are made so."""
    return f"samples-{made.digest()}"


def parse_part(part: str) -> tuple[int, int]:
    """`"1/4"` to (1, 4). Raises InputError."""
    pieces = part.split("/")
    if len(pieces) != 2 or not all(piece.isdecimal() for piece in pieces) or int(pieces[0]) >= int(pieces[1]):
        raise InputError(f"--part {part}: give i/n, i from 0 to n-1")
    return int(pieces[0]), int(pieces[1])


def _with_truth(found: Mapping[str, Predictions], name: str, truth_from: str | None) -> Predictions:
    """A row's predictions, or with another row's in the place of the truth. Raises InputError where the two
    have other views."""
    own = found[name]
    if truth_from is None:
        return own
    other = found[truth_from]
    if [view.name for view in other.views] != [view.name for view in own.views]:
        raise InputError(
            f"row {name!r} and {truth_from!r}: they have other views; make them of the same subjects"
        )
    truths = {view.name: (other.folder / view.image).resolve() for view in other.views}
    return replace(
        own, views=tuple(replace(view, truth=str(truths[view.name]), mask=None) for view in own.views)
    )


def write(evaluation: Evaluation, out: Path, scored: Mapping[str, Scores]) -> list[Row]:
    """All files of a table, and its W&B run where wanted."""
    rows = [measured(name, scores) for name, scores in scored.items()]
    rows += [quoted(row, evaluation.made.subjects.protocol) for row in evaluation.published]
    write_text(out / "table.csv", csv_table(rows))
    write_text(out / "table.json", json_table(evaluation.title, rows, dict(scored)))
    pictures: dict[str, Image.Image] = {}
    if plot := yaw_plot(scored, plotted(scored)):
        pictures["yaw"] = plot
    for name, scores in scored.items():
        write_text(out / f"{name}.csv", view_table(scores))
        if names := names_of(scores.views):
            pictures[f"{name}.worst"] = worst_sheet(scores, ordered(names)[0])
    for name, picture in pictures.items():
        save_whole(picture, out / f"{name}.png")
    text = markdown(evaluation.title, rows)
    write_text(out / "table.md", text)
    print(text)
    if evaluation.wandb:
        log_to_wandb(evaluation, rows, pictures)
    return rows


def plotted(scored: Mapping[str, Scores]) -> list[str]:
    """The metrics that are plotted by yaw, of those that were scored."""
    names = dict.fromkeys(name for scores in scored.values() for name in names_of(scores.views))
    return ordered([name for name in names if name in PLOTTED or name.split("[")[0] in ("LPIPS", "ID")])


def log_to_wandb(evaluation: Evaluation, rows: Sequence[Row], pictures: Mapping[str, Image.Image]) -> None:
    """The table as a W&B Table that can be sorted, and the pictures. Raises InputError without wandb."""
    logger = wandb_logger(save_dir=evaluation.out, name=evaluation.title, group="evaluate")
    cells = [
        [row.name, row.published or "", row.protocol, row.resolution, name, v.mean, v.low, v.high]
        for row in rows
        for name, v in row.values.items()
    ]
    head = ["system", "published", "protocol", "size", "metric", "mean", "low", "high"]
    logger.log_table("evaluate/table", columns=head, data=cells)
    for name, picture in pictures.items():
        logger.log_image(f"evaluate/{name}", [picture])
    logger.experiment.finish()


def make_parser() -> ArgumentParser:
    """The command's parser."""
    parser = ArgumentParser(
        prog="python -m lightning_modules.evaluate",
        description="A model's or any system's figures.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="a table's YAML; flags win over it")
    parser.add_class_arguments(Evaluation)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = make_parser()
    try:
        chosen = parser.instantiate(parser.parse_args(arguments)).as_dict()
    except ArgumentError as error:
        raise InputError(" ".join(str(error).split())) from error
    chosen.pop("config", None)
    evaluate(Evaluation(**chosen))


if __name__ == "__main__":
    with one_line():
        main()
