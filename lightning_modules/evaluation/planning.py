"""Resolution of an evaluation request into a plan: everything is checked here, before a model is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentError, ArgumentParser

from core import fingerprints
from core.destination import Destination
from core.devices import CPU, find_device, has_float64
from core.engine import THIS_PROCESS, Engine
from core.errors import InputError
from generators.registry import check_renderer, renderer_record
from lightning_modules.evaluation.baselines import plan_baseline
from lightning_modules.evaluation.sampling import Move, OtherConditions, PredictionPlan
from lightning_modules.evaluation.scoring import (
    ScoringPlan,
    check_inputs,
    check_masks,
    check_set_sizes,
    native_sizes,
    square_sizes,
)
from lightning_modules.evaluation.settings import (
    BaselineSettings,
    EvaluationRequest,
    PredictionSettings,
    RowSettings,
    ScoringSettings,
)
from lightning_modules.evaluation.subjects import SubjectSet, SubjectSettings, find_subjects
from lightning_modules.evaluation.systems import OURS, ModelChoice
from lightning_modules.evaluation.tables import Row, published_rows
from lightning_modules.networks.portrait import NOISE_PRIOR
from lightning_modules.sampling.devices import check_precision
from lightning_modules.sampling.loras import Lora, check_loras
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.presets import preset
from metrics.suite import MetricSuite
from portraits.alignment.photos import photo_files
from portraits.pixels import check_side
from portraits.predictions import LONGEST_NAME, Predictions, is_plain_name

TRUTH_FROM, PRESET = "truth_from", "preset"
TABLE_FILES = ("table", "yaw", "dots", "systems")


@dataclass(frozen=True)
class RowPlan:
    """One row of a table.

    Args:
        name: name of the row and its files
        predictions: predictions to score, or the plan to generate them
        scoring: settings of scoring
        truth_from: name of an earlier row whose predictions replace the truth
        system: name of the system in published rows
        notes: remarks below the table
    """

    name: str
    predictions: Predictions | PredictionPlan
    scoring: ScoringPlan
    truth_from: str | None = None
    system: str = OURS
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationPlan:
    """A table.

    Args:
        title: title of the table
        rows: measured rows
        published: quoted rows
        remarks: remarks on the quoted rows
        destination: where the results go
        part: name of this command's share of the subjects
        engine: where predictions are generated
        wandb: also log to Weights & Biases
    """

    title: str
    rows: tuple[RowPlan, ...]
    published: tuple[Row, ...]
    remarks: tuple[str, ...]
    destination: Destination
    part: str
    engine: Engine
    wandb: bool

    @property
    def out(self) -> Path:
        """The folder that results are written into."""
        return self.destination.folder


class Devices(NamedTuple):
    """The devices of sampling, by workers, and of scoring, by this process."""

    sampling: str
    scoring: str


def plan_evaluation(request: EvaluationRequest) -> EvaluationPlan:
    """Resolve a request. Raises InputError for everything that would fail later: unknown or inconsistent
    settings, missing or damaged files, too few images, metrics without weights."""
    devices, (number, parts) = _find_devices(request), parse_part(request.part)
    destination = _find_destination(request, parts)
    if request.predictions is not None:
        rows = _rows_of_folders(request.predictions, request.row.scoring, devices.scoring)
    else:
        rows = _rows_of_models(request, destination.folder, (number, parts), devices)
    published = published_rows(request.published, request.row.subjects.protocol)
    remarks = [f"{table.source}: {text}" for table in request.published for text in table.differences]
    try:
        destination.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{destination.folder}: the folder cannot be created: {error.strerror}") from error
    return EvaluationPlan(
        request.title,
        tuple(rows),
        tuple(published),
        tuple(remarks),
        destination,
        f"part-{number}-of-{parts}",
        request.cluster() or THIS_PROCESS,
        request.wandb,
    )


def _rows_of_folders(folders: Sequence[str], settings: ScoringSettings, device: str) -> list[RowPlan]:
    """A row for each folder of predictions."""
    loaded = [Predictions.load(Path(folder)) for folder in folders]
    names = row_names([predictions.system for predictions in loaded])
    suite = MetricSuite(settings.metrics)
    rows = []
    for name, predictions in zip(names, loaded, strict=True):
        check_inputs(predictions)
        native = native_sizes(predictions, settings.size)
        if settings.background == "remove":
            check_masks(predictions)
        truths = sum(view.truth is not None for view in predictions.views)
        scoring = _plan_scoring(settings, suite, native, truths, str(predictions.folder), device)
        rows.append(RowPlan(name, predictions, scoring, system=predictions.system))
    return rows


def _rows_of_models(
    request: EvaluationRequest, out: Path, part: tuple[int, int], devices: Devices
) -> list[RowPlan]:
    """A row for each variation of the common settings."""
    changes = request.rows or {row_names([Path(request.row.model).name])[0]: {}}
    subjects_of, suite_of = cache(find_subjects), cache(lambda names: MetricSuite(names))
    rows: dict[str, RowPlan] = {}
    compared: dict[tuple[SubjectSettings, str], str] = {}
    for name, change in changes.items():
        check_row_name(name)
        truth_from = change.get(TRUTH_FROM)
        if truth_from is not None and truth_from not in rows:
            raise InputError(f"row {name!r}: {TRUTH_FROM} {truth_from!r} is not the name of a row above it")
        settings = change_settings(request.row, row_changes(change), name)
        predictions = _plan_predictions(settings, out, subjects_of(settings.subjects), part, devices.sampling)
        _check_same_views(name, predictions, None if truth_from is None else rows[truth_from])
        scoring = settings.scoring
        if scoring.background == "remove":
            _check_masks(name, settings.subjects.shards, predictions.subjects, truth_from)
        native = dict.fromkeys(predictions.views, predictions.subjects.image_size)
        suite = suite_of(None if scoring.metrics is None else tuple(scoring.metrics))
        plan = _plan_scoring(scoring, suite, native, len(native), f"row {name!r}", devices.scoring)
        rows[name] = RowPlan(name, predictions, plan, truth_from, notes=_notes_on_text_and_loras(settings))
        if truth_from is None and settings.alignment == "aligned":
            compared.setdefault((settings.subjects, str(scoring)), name)
    rows_of_ours = [rows[name] for name in compared.values()]
    return [*rows.values(), *_rows_of_baselines(request.baselines, rows_of_ours, list(rows))]


def _rows_of_baselines(
    baselines: Sequence[BaselineSettings], ours: Sequence[RowPlan], used: Sequence[str]
) -> list[RowPlan]:
    """A row for each baseline and each row of our model, over the same subjects, cameras and scores."""
    rows: list[RowPlan] = []
    for row in ours:
        assert isinstance(row.predictions, PredictionPlan)
        for baseline in baselines:
            plan = plan_baseline(baseline, row.predictions)
            name = plan.system if len(ours) == 1 else f"{plan.system}, {row.name}"
            name = row_names([*used, *(other.name for other in rows), name])[-1]
            rows.append(RowPlan(name, plan, row.scoring, system=plan.system))
    return rows


def _check_masks(name: str, shards: str, subjects: SubjectSet, truth_from: str | None) -> None:
    """Raise InputError if a row has no masks to remove the background with."""
    if truth_from is not None:
        raise InputError(f"row {name!r}: its truth is row {truth_from!r}, which has no masks")
    if not subjects.masks:
        raise InputError(f"row {name!r}: not all frames of {shards} have masks to remove the background with")


def _check_same_views(name: str, predictions: PredictionPlan, truth: RowPlan | None) -> None:
    """Raise InputError if another row's predictions cannot be the truth of these."""
    if truth is not None and (
        not isinstance(truth.predictions, PredictionPlan) or truth.predictions.views != predictions.views
    ):
        raise InputError(f"row {name!r} and {truth.name!r}: their views differ; give both the same subjects")


def _plan_predictions(
    settings: PredictionSettings, out: Path, subjects: SubjectSet, part: tuple[int, int], device: str
) -> PredictionPlan:
    model = ModelSummary.read(settings.model)
    _check_model(model, settings, subjects)
    if settings.conditions == "others":
        check_renderer(settings.renderer)
    if settings.batch < 1:
        raise InputError(f"batch {settings.batch}: give 1 or more")
    check_precision(settings.precision, [device])
    loras = parse_loras(settings)
    check_loras(loras, model.folder, settings.sampling.solver)
    number, parts = part
    return PredictionPlan(
        out / f"samples-{fingerprint(settings, subjects, model.folder)}",
        Path(settings.model).name,
        settings.subjects.protocol,
        ModelChoice(
            model.folder,
            settings.sampling,
            getattr(torch, settings.precision),
            settings.reference_network == "untrained",
            loras,
        ),
        subjects,
        frozenset(subjects.keys[number::parts]),
        settings.subjects.seed,
        settings.batch,
        device,
        Move(settings.shift, settings.scale, settings.tilt) if settings.alignment == "moved" else None,
        OtherConditions(settings.renderer, settings.identity) if settings.conditions == "others" else None,
        prediction_values(settings) | {"lora": [lora.record for lora in loras]},
    )


def parse_loras(settings: PredictionSettings) -> tuple[Lora, ...]:
    """The LoRAs of a model's predictions. Raises InputError for files that cannot be used."""
    return tuple(Lora.parse(text) for text in settings.lora or ())


def _notes_on_text_and_loras(settings: PredictionSettings) -> tuple[str, ...]:
    """Lines below the table that name a row's prompt and LoRAs."""
    notes = [f"prompt: {settings.sampling.prompt}"] if settings.sampling.prompt else []
    records = [lora.record for lora in parse_loras(settings)]
    notes += [f"LoRA {one['file']}, weight {one['weight']:g} ({one['fingerprint']})" for one in records]
    return tuple(notes)


def _check_model(model: ModelSummary, settings: PredictionSettings, subjects: SubjectSet) -> None:
    """Raise InputError if a model cannot generate the predictions."""
    if subjects.image_size != model.image_size:
        raise InputError(
            f"{model.folder} generates images of {model.image_size} pixels, and those of"
            f" {settings.subjects.shards} have {subjects.image_size}"
        )
    if settings.sampling.noise == "3d-aware" and not model.has_noise_prior:
        raise InputError(f"sampling.noise 3d-aware: {model.folder} has no {NOISE_PRIOR}/ (S); choose random")
    most_views = max(len(subject.views) for subject in subjects.subjects)
    model.check_sampling(settings.sampling, most_views)


def _plan_scoring(
    settings: ScoringSettings,
    suite: MetricSuite,
    native: Mapping[str, int],
    truths: int,
    where: str,
    device: str,
) -> ScoringPlan:
    """The plan to score `native` images, of which `truths` have a truth; `where` names them in errors."""
    size = max(native.values()) if settings.size is None else settings.size
    check_side(size, "scoring.size", least=1)
    if settings.batch < 1:
        raise InputError(f"scoring.batch {settings.batch}: give 1 or more")
    if truths:
        suite.check_side(size)
    real = None if settings.real is None else tuple(photo_files(Path(settings.real)))
    if settings.metrics is not None:
        check_set_sizes(where, suite, len(native), truths if real is None else len(real))
    if real is not None and len(suite.sets):
        square_sizes(Path(settings.real or ""), [str(path.relative_to(settings.real or "")) for path in real])
    return ScoringPlan(suite, device, size, native, settings.background, real, settings.batch)


def prediction_values(settings: PredictionSettings) -> dict[str, Any]:
    """The settings of predictions, without those of scoring, as JSON values."""
    values = asdict(settings)
    return {field.name: values[field.name] for field in fields(PredictionSettings)}


def fingerprint(settings: PredictionSettings, subjects: SubjectSet, model: Path) -> str:
    """The fingerprint of everything that predictions depend on: settings, data, the weights and configuration
    in the folder `model`, and LoRAs by their content and weight. Raises InputError."""
    values = prediction_values(settings)
    del values["lora"]
    if loras := parse_loras(settings):
        values["loras"] = [[fingerprints.of_file(lora.file), lora.weight] for lora in loras]
    values.pop("batch")
    values["sampling"].pop("chunk")
    values["subjects"].pop("cache_dir")
    values["subjects"]["shards"] = subjects.fingerprint
    values["subjects"]["masks"] = subjects.masks_from
    values["model"] = fingerprints.of_folder(model)
    values["renderer"] = renderer_record(settings.renderer) if settings.conditions == "others" else None
    return fingerprints.of_settings(values)


def _find_destination(request: EvaluationRequest, parts: int) -> Destination:
    """Where the results of a request go. Raises InputError if its URL has files already, or if it is given
    with one of several parts, which share a folder."""
    destination = Destination.of(request.out, request.staging)
    if destination.url is not None and parts > 1:
        raise InputError(
            f"--part {request.part} shares a folder: give --out {destination.folder} to all parts, and then"
            f" --out {destination} --staging {request.staging} without --part"
        )
    destination.check_vacant()
    return destination


def _find_devices(request: EvaluationRequest) -> Devices:
    """The devices of a request. Raises InputError for unknown devices."""
    if not request.on_ray:
        device = find_device(request.device)
        return Devices(device, device if has_float64(device) else CPU)  # metrics average in float64
    sampling = request.cluster_device(request.device)
    return Devices(sampling, find_device("cpu" if request.device == "cpu" else None))


def parse_part(part: str) -> tuple[int, int]:
    """Parse `"1/4"` to (1, 4). Raises InputError."""
    pieces = part.split("/")
    if len(pieces) != 2 or not all(piece.isdecimal() for piece in pieces) or int(pieces[0]) >= int(pieces[1]):
        raise InputError(f"--part {part}: give i/n, i from 0 to n-1")
    return int(pieces[0]), int(pieces[1])


def check_row_name(name: str) -> None:
    """Raise InputError if files cannot be named after a row."""
    if not is_plain_name(name):
        raise InputError(
            f"row {name[:80]!r}: files are named after it: no slashes, and at most {LONGEST_NAME} bytes"
        )
    if name in TABLE_FILES:
        raise InputError(f"row {name!r}: {', '.join(TABLE_FILES)} are the names of the table's own files")


def row_names(systems: Sequence[str]) -> list[str]:
    """A unique row name for each system: its own with dashes for slashes, numbered if repeated. Raises
    InputError if files cannot have the name."""
    names: list[str] = []
    for system in systems:
        plain = system.replace("/", "-").replace("\\", "-")
        used = {*names, *TABLE_FILES}
        numbered = (f"{plain} {number}" for number in count(2))
        name = plain if plain not in used else next(name for name in numbered if name not in used)
        check_row_name(name)
        names.append(name)
    return names


def row_changes(change: Mapping[str, Any]) -> dict[str, Any]:
    """A row's changes of settings, with those of its preset spelled out. Raises InputError for an unknown
    preset."""
    own = {key: value for key, value in change.items() if key not in (TRUTH_FROM, PRESET)}
    if PRESET not in change:
        return own
    return {f"sampling.{name}": value for name, value in preset(str(change[PRESET])).items()} | own


def change_settings(settings: RowSettings, changes: Mapping[str, Any], row: str) -> RowSettings:
    """Override settings by dotted names. Raises InputError for unknown settings and values of the wrong
    type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RowSettings)
    base = parser.parse_object(asdict(settings))
    for name, value in changes.items():
        if value is None and base.get(name) is not None and parser.get_defaults().get(name) is not None:
            raise InputError(f"row {row!r}: {name} needs a value")
    try:
        changed = parser.instantiate(parser.parse_object(dict(changes), namespace=base))
    except ArgumentError as error:
        raise InputError(f"row {row!r}: {' '.join(str(error).split())}") from error
    return RowSettings(**changed.as_dict())
