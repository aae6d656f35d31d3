"""Score a model, or the predictions of any system: a table of metrics, with plots and the worst views.

`python -m lightning_modules.evaluate --config configs/evaluate/table1.yaml --out DIR` writes `table.md`,
`table.csv`, `table.json`, `yaw.png`, and for each row `<row>.csv` with the scores of every view and
`<row>.worst.png`. Predictions of a model are kept in `<out>/samples-<digest>/`: a second run scores them
again without sampling, and an interrupted run is resumed. `--predictions DIR…` scores the images of any
system (`portraits.predictions` describes their layout).
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from jsonargparse import ArgumentError, ArgumentParser

from core.engine import Engine
from core.errors import InputError, one_line
from core.files import exclusive
from core.shipped import find_configs
from core.yaml_files import check_configs
from lightning_modules.evaluation.planning import EvaluationPlan, RowPlan, plan_evaluation
from lightning_modules.evaluation.report import TABLE_JSON, log_report, write_report
from lightning_modules.evaluation.sampling import make_predictions
from lightning_modules.evaluation.scoring import ScoringPlan, native_sizes, score
from lightning_modules.evaluation.settings import EvaluationRequest, RowSettings
from lightning_modules.evaluation.systems import ModelChoice
from lightning_modules.loggers import wandb_logger
from lightning_modules.sampling import loras
from lightning_modules.sampling.presets import FLAG, HELP, parse_with_preset
from portraits.predictions import Predictions


def evaluate(plan: EvaluationPlan) -> bool:
    """Generate predictions, score them and write the report; then move the folder to its URL, if it has one.

    Returns False, without a report, if the predictions of other processes' parts are missing. Raises
    InputError if data or models cannot be read, or another process is working on the same part, and
    IncompleteError if some subjects were given up.
    """
    with exclusive(plan.out / plan.part):
        complete = _evaluate(plan)
    if complete and plan.destination.url is not None:
        plan.destination.deliver(TABLE_JSON)
        print(plan.destination)
    return complete


def _evaluate(plan: EvaluationPlan) -> bool:
    for notice in dict.fromkeys(row.scoring.suite.notice for row in plan.rows):
        print(notice)
    predictions: dict[str, Predictions] = {}
    for row in plan.rows:
        made = _predictions_of(row, plan.engine)
        if made is None:
            print(f"{plan.out}: other parts of {row.name!r} are still missing: run them, then this one again")
            return False
        predictions[row.name] = made
    # parts that end at the same time write the same report, one after the other
    with exclusive(plan.out / "table", wait=True):
        scores = {
            row.name: score(_with_truth(row, predictions), _scoring_of(row, predictions)) for row in plan.rows
        }
        report = write_report(plan, scores)
    if plan.wandb:
        log_report(report, wandb_logger(str(plan.out), name=plan.title, group="evaluate"))
    return True


def _predictions_of(row: RowPlan, engine: Engine) -> Predictions | None:
    if isinstance(row.predictions, Predictions):
        return row.predictions
    return make_predictions(row.predictions, engine)


def _scoring_of(row: RowPlan, predictions: Mapping[str, Predictions]) -> ScoringPlan:
    """The settings for scoring a row; a baseline's native resolution is known only from its views."""
    if isinstance(row.predictions, Predictions) or isinstance(row.predictions.choice, ModelChoice):
        return row.scoring
    return replace(row.scoring, native=native_sizes(predictions[row.name], row.scoring.size))


def _with_truth(row: RowPlan, predictions: Mapping[str, Predictions]) -> Predictions:
    """A row's predictions, with another row's predictions as the truth if the plan says so."""
    own = predictions[row.name]
    if row.truth_from is None:
        return own
    other = predictions[row.truth_from]
    truths = {view.name: str((other.folder / view.image).resolve()) for view in other.views}
    return replace(own, views=tuple(replace(view, truth=truths[view.name], mask=None) for view in own.views))


def make_parser() -> ArgumentParser:
    """The parser of the command."""
    parser = ArgumentParser(
        prog="diffportrait3d evaluate",
        description="Score a model, or the predictions of any system.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of a table; flags override it")
    parser.add_argument(FLAG, type=str, help=HELP)
    parser.add_argument("--lora", type=str, nargs="+", help=loras.HELP)
    parser.add_class_arguments(RowSettings, skip={"lora"})
    parser.add_class_arguments(EvaluationRequest, skip={"row"})
    return parser


def parse_request(arguments: Sequence[str] | None = None) -> EvaluationRequest:
    """The request of command line arguments. Raises InputError."""
    parser = make_parser()
    arguments = find_configs(sys.argv[1:] if arguments is None else arguments)
    check_configs(arguments)
    try:
        values = parser.instantiate(parse_with_preset(parser, arguments, "sampling.")).as_dict()
    except ArgumentError as error:
        raise InputError(" ".join(str(error).split())) from error
    for name in ("config", FLAG.removeprefix("--")):
        values.pop(name, None)
    row = RowSettings(**{field.name: values.pop(field.name) for field in fields(RowSettings)})
    return EvaluationRequest(row, **values)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    evaluate(plan_evaluation(parse_request(arguments)))


if __name__ == "__main__":
    with one_line():
        main()
