"""Generation of a system's predictions; every subject is written atomically, so that a second run only adds
the rest.

Shape letters: K views, R references, S image side.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from baselines.base import Request
from core.engine import THIS_PROCESS, Engine, Task
from core.errors import IncompleteError
from core.files import whole_folder, write_json
from core.lists import shortened
from core.schema import read_schema
from core.tensors import read_json
from core.workers import Worker
from generators.base import Renderer
from generators.registry import RendererChoice
from lightning_modules.evaluation.cost import Cost, measured
from lightning_modules.evaluation.moving import moved
from lightning_modules.evaluation.subjects import Subject, SubjectSet, SubjectViews
from lightning_modules.evaluation.systems import System, SystemChoice
from lightning_modules.sampling.view_conditions import prepare_renderer
from portraits.pixels import Images, to_images, to_pixels
from portraits.predictions import Predictions, Protocol, View

SETTINGS, SYSTEM, VIEWS, COST = "settings.json", "system.json", "views.json", "cost.json"
REFERENCE = "reference.png"


@dataclass(frozen=True)
class Move:
    """The arguments of `moving.moved`, for references that are not aligned (Table 1b)."""

    shift: float
    scale: float
    tilt: float


@dataclass(frozen=True)
class OtherConditions:
    """Conditions of other people (B.4): a renderer, and the number of the first person that it renders."""

    renderer: RendererChoice
    identity: int


@dataclass(frozen=True)
class PredictionPlan:
    """A plan to generate a system's predictions.

    Args:
        folder: the folder of predictions, with a subfolder for each finished subject
        system: name of the system in tables
        protocol: protocol of the evaluation
        choice: the model or the baseline
        subjects: all subjects
        share: keys of the subjects that this command generates
        seed: seed of the noise
        batch: number of subjects passed to the system at a time
        device: cpu or cuda
        move: transformation of the references; None for aligned ones
        others: renderer of the conditions; None for the conditions in the shards
        settings: settings to record in the manifest
    """

    folder: Path
    system: str
    protocol: Protocol
    choice: SystemChoice
    subjects: SubjectSet
    share: frozenset[str]
    seed: int = 0
    batch: int = 4
    device: str = "cpu"
    move: Move | None = None
    others: OtherConditions | None = None
    settings: dict[str, Any] | None = None

    @property
    def views(self) -> list[str]:
        """The names of all views, in order."""
        return [
            f"{subject.key}/{view_name(number)}"
            for subject in self.subjects.subjects
            for number in range(len(subject.views))
        ]


def view_name(number: int) -> str:
    """The name of a subject's view `number`."""
    return f"{number:03d}"


def make_predictions(plan: PredictionPlan, engine: Engine = THIS_PROCESS) -> Predictions | None:
    """Generate the predictions that are not yet in the plan's folder, and return all.

    Returns None if subjects of other processes' shares are missing. Raises InputError if the model or the
    data cannot be read, and IncompleteError if the engine gave subjects up.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_json(plan.folder / SETTINGS, plan.settings)
    # batches are the same in every run, so that a resumed run gives the same views to the last bit
    share = [subject for subject in plan.subjects.subjects if subject.key in plan.share]
    todo = [
        batch
        for batch in batches(share, plan.batch)
        if not all((plan.folder / key).is_dir() for key in batch)
    ]
    _sample(plan, todo, engine)
    if not all((plan.folder / key).is_dir() for key in plan.subjects.keys):
        return None
    return _collect(plan)


def _sample(plan: PredictionPlan, todo: Sequence[Sequence[str]], engine: Engine) -> None:
    title = f"sampling {plan.system}"
    task = Task("sampling", title, Sampler(plan), todo, [len(keys) for keys in todo], "subject")
    given_up = [done for done in engine.run(task) if done.failure is not None]
    if given_up:
        failures = [f"{key}: {done.failure}" for done in given_up for key in todo[done.index]]
        raise IncompleteError(
            f"{len(failures)} subjects could not be sampled: {shortened(failures, separator='; ')}; the"
            f" others are in {plan.folder}, and partial results are not scored: run the same command again"
        )


@dataclass(frozen=True)
class Sampler:
    """Samples batches of a plan's subjects. A worker loads the system once."""

    plan: PredictionPlan

    def __call__(self, worker: Worker) -> Callable[[Sequence[str]], None]:  # noqa: ARG002
        """Load the system, and return the function that samples one batch, given by its subjects' keys."""
        plan = self.plan
        system = plan.choice.open(plan.device)
        write_json(plan.folder / SYSTEM, system.details)
        renderer = prepare_renderer(plan.others.renderer) if plan.others is not None else None
        return lambda keys: _sample_batch(plan, system, renderer, keys)


def _sample_batch(
    plan: PredictionPlan, system: System, renderer: Renderer | None, keys: Sequence[str]
) -> None:
    batch = list(plan.subjects.read(keys))
    requests = [request_of(subject, plan, renderer) for subject in batch]
    with measured(plan.device) as cost:
        images = system.batch_views(requests)
    cost = Cost(cost.seconds / len(batch), cost.peak_bytes)
    for subject, request, views in zip(batch, requests, images, strict=True):
        camera = subject.reference_cameras[0].tolist() if plan.move is None else None
        # some may have been written by an interrupted run, or by another process with the same subjects
        if not (plan.folder / subject.key).is_dir():
            write_subject(plan.folder / subject.key, subject, request, views, camera, cost)


def request_of(subject: Subject, plan: PredictionPlan, renderer: Renderer | None) -> Request:
    """A system's input for a subject. Moved references are rounded to 8 bits, as in the saved files."""
    return Request(
        subject.key,
        to_images(reference_pixels(subject, plan.move)),
        subject.reference_cameras,
        subject.cameras,
        subject.reference_masks,
        to_images(condition_pixels(subject, plan.others, renderer)),
        plan.seed,
    )


def batches(subjects: Iterable[SubjectViews], size: int) -> Iterator[list[str]]:
    """Batches of at most `size` names of consecutive subjects with equal numbers of references and views."""
    for _, alike in groupby(subjects, lambda subject: (len(subject.references), len(subject.views))):
        names = [subject.key for subject in alike]
        yield from (names[start : start + size] for start in range(0, len(names), size))


def reference_pixels(subject: Subject, move: Move | None) -> Tensor:
    """The references (R, 3, S, S) in [-1, 1], moved if `move` is given."""
    references = to_pixels(subject.references)
    return references if move is None else moved(references, move.shift, move.scale, move.tilt)


def condition_pixels(subject: Subject, others: OtherConditions | None, renderer: Renderer | None) -> Tensor:
    """The conditions (K, 3, S, S) in [-1, 1]: those in the shards, or renders of another person at the same
    cameras, whose number is a hash of the subject's key."""
    if others is None or renderer is None:
        return to_pixels(subject.conditions)
    identity = others.identity + int(hashlib.sha256(subject.key.encode()).hexdigest()[:5], 16)
    side = subject.conditions.shape[1]
    return to_pixels(renderer.render(identity, subject.cameras, side).images)


def write_subject(
    folder: Path,
    subject: Subject,
    request: Request,
    images: Images,
    reference_camera: list[float] | None,
    cost: Cost,
) -> None:
    """Write a subject's folder: its predictions (K, S, S, 3), the images that they are compared with, and
    their cost.

    `reference_camera` is the label (25,) of the first reference; None if the reference was moved.
    """
    conditions = subject.conditions if request.conditions is None else request.conditions
    with whole_folder(folder) as place:
        Image.fromarray(request.portraits[0]).save(place / REFERENCE)
        write_json(place / VIEWS, {"views": [asdict(view) for view in _entries(subject, reference_camera)]})
        write_json(place / COST, asdict(cost))
        for number, (image, condition) in enumerate(zip(images, conditions, strict=True)):
            name = view_name(number)
            Image.fromarray(image).save(place / f"{name}.png")
            Image.fromarray(condition).save(place / f"{name}.condition.png")
            Image.fromarray(subject.truths[number]).save(place / f"{name}.truth.png")
            if subject.masks is not None:
                Image.fromarray(subject.masks[number]).save(place / f"{name}.mask.png")


def _collect(plan: PredictionPlan) -> Predictions:
    """Write the manifest of complete predictions, and load it, which checks them."""
    files = [plan.folder / key / VIEWS for key in plan.subjects.keys]
    views = [View.parse(entry, str(file)) for file in files for entry in read_json(file)["views"]]
    costs = [read_schema(Cost, plan.folder / key / COST) for key in plan.subjects.keys]
    cost = Cost(sum(cost.seconds for cost in costs) / len(views), max(cost.peak_bytes for cost in costs))
    settings = {**(plan.settings or {}), "system": read_json(plan.folder / SYSTEM), "cost": asdict(cost)}
    Predictions(plan.folder, plan.system, plan.protocol, tuple(views), settings).save()
    return Predictions.load(plan.folder)


def _entries(subject: Subject, reference_camera: list[float] | None) -> Iterator[View]:
    for number, camera in enumerate(subject.cameras.tolist()):
        name = view_name(number)
        stem = f"{subject.key}/{name}"
        yield View(
            subject.key,
            name,
            reference=f"{subject.key}/{REFERENCE}",
            camera=camera,
            truth=f"{stem}.truth.png",
            condition=f"{stem}.condition.png",
            mask=None if subject.masks is None else f"{stem}.mask.png",
            reference_camera=reference_camera,
        )
