"""Predictions of a model: every subject is written whole or not at all, and a second run makes the rest only.

Shape letters: B subjects, K views, R references, S image side.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from core.files import whole_folder, write_json
from core.tensors import read_json
from generators.base import Renderer
from generators.registry import RendererChoice
from lightning_modules.evaluation.moving import moved
from lightning_modules.evaluation.subjects import Subject, SubjectSet
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline, to_image
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.view_conditions import prepare_renderer
from portraits.pixels import to_pixels
from portraits.predictions import Predictions, Protocol, View

SETTINGS, VIEWS, REFERENCE = "settings.json", "views.json", "reference.png"


@dataclass(frozen=True)
class ModelChoice:
    """A model folder, the dtype of its networks, and whether F_ref is replaced by an untrained copy of F."""

    folder: Path
    dtype: torch.dtype = torch.float32
    untrained_reference: bool = False


@dataclass(frozen=True)
class Move:
    """The arguments of `moving.moved`, for references that are not aligned (Table 1b)."""

    shift: float
    scale: float
    tilt: float


@dataclass(frozen=True)
class OtherConditions:
    """Conditions of other people: a renderer, and the number of the first person that it shows (B.4)."""

    renderer: RendererChoice
    identity: int


@dataclass(frozen=True)
class PredictionPlan:
    """Predictions of a model, and the folder where they are kept.

    Args:
        folder: that holds a folder for each subject that is finished
        system: name of the model in tables
        protocol: of the evaluation
        model: that makes them
        subjects: all of them
        share: keys of those that this process makes
        sampling: number of steps, guidance scale and so on
        seed: of the noise
        batch: number of subjects that are sampled at a time
        device: cpu or cuda
        move: how references are moved; None leaves them aligned
        others: people of the conditions; None takes the conditions of the shards
        settings: recorded in the manifest
    """

    folder: Path
    system: str
    protocol: Protocol
    model: ModelChoice
    subjects: SubjectSet
    share: frozenset[str]
    sampling: Sampling
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


def make_predictions(plan: PredictionPlan) -> Predictions | None:
    """The predictions of a plan, of which only those are sampled that its folder does not hold yet.

    Returns None where subjects of other processes' shares are missing. Raises InputError where the model or
    the data cannot be read.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_json(plan.folder / SETTINGS, plan.settings)
    todo = {key for key in plan.share if not (plan.folder / key).is_dir()}
    if todo:
        _sample(plan, todo)
    if not all((plan.folder / key).is_dir() for key in plan.subjects.keys):
        return None
    return _collect(plan)


def _sample(plan: PredictionPlan, todo: set[str]) -> None:
    pipeline = open_model(plan.model).to(plan.device)
    renderer = prepare_renderer(plan.others.renderer) if plan.others is not None else None
    with tqdm(total=len(todo), desc="sampling", unit="subject") as bar:
        for batch in batches(plan.subjects.read(todo), plan.batch):
            references = [reference_pixels(subject, plan.move) for subject in batch]
            conditions = [condition_pixels(subject, plan.others, renderer) for subject in batch]
            views = _views(pipeline, plan, batch, references, conditions)
            for subject, *images in zip(batch, references, conditions, views, strict=True):
                camera = subject.reference_cameras[0].tolist() if plan.move is None else None
                # a process whose part overlaps with this one may have made the same views
                if not (plan.folder / subject.key).is_dir():
                    write_subject(plan.folder / subject.key, subject, *images, reference_camera=camera)
            bar.update(len(batch))


def open_model(choice: ModelChoice) -> DiffPortrait3DPipeline:
    """The pipeline of a model. Raises InputError where the folder does not hold one."""
    pipeline = DiffPortrait3DPipeline.from_pretrained(choice.folder, choice.dtype)
    if not choice.untrained_reference:
        return pipeline
    model = pipeline.model
    untrained = AppearanceReference.from_unet(model.backbone.unet).eval()
    return DiffPortrait3DPipeline.of(replace(model, reference=untrained))


def batches(subjects: Iterable[Subject], size: int) -> Iterator[list[Subject]]:
    """Batches of at most `size` consecutive subjects with equal numbers of references and of views."""
    for _, alike in groupby(subjects, lambda subject: (len(subject.references), len(subject.truths))):
        batch: list[Subject] = []
        for subject in alike:
            batch.append(subject)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def reference_pixels(subject: Subject, move: Move | None) -> Tensor:
    """The references (R, 3, S, S) in [-1, 1], moved where the plan says so."""
    references = to_pixels(subject.references)
    return references if move is None else moved(references, move.shift, move.scale, move.tilt)


def condition_pixels(subject: Subject, others: OtherConditions | None, renderer: Renderer | None) -> Tensor:
    """The conditions (K, 3, S, S) in [-1, 1]: those of the shards, or another person at the same cameras, who
    follows from the subject's key."""
    if others is None or renderer is None:
        return to_pixels(subject.conditions)
    identity = others.identity + int(hashlib.sha256(subject.key.encode()).hexdigest()[:5], 16)
    side = subject.conditions.shape[1]
    return to_pixels(renderer.render(identity, subject.cameras, side).images)


def _views(
    pipeline: DiffPortrait3DPipeline,
    plan: PredictionPlan,
    batch: Sequence[Subject],
    references: Sequence[Tensor],
    conditions: Sequence[Tensor],
) -> Tensor:
    """Predicted views (B, K, 3, S, S) in [-1, 1]."""
    side = pipeline.image_size
    if references[0].shape[-1] != side:
        raise InputError(f"{batch[0].key}: its images are not {side}x{side}, as the other subjects' are")
    cameras = torch.from_numpy(np.stack([subject.cameras for subject in batch]))
    return pipeline.views(
        torch.stack(list(references)),
        torch.stack(list(conditions)) if pipeline.view_control is not None else None,
        cameras if pipeline.noise_prior is not None else None,
        seeds=[f"{plan.seed} {subject.key}" for subject in batch],
        count=len(batch[0].truths),
        sampling=plan.sampling,
    )


def write_subject(
    folder: Path,
    subject: Subject,
    references: Tensor,
    conditions: Tensor,
    images: Tensor,
    reference_camera: list[float] | None,
) -> None:
    """Write a subject's folder: its predictions, and the images that they are compared with.

    `reference_camera` is the label (25,) of the first reference; None where the reference was moved.
    """
    with whole_folder(folder) as place:
        to_image(references[0]).save(place / REFERENCE)
        write_json(place / VIEWS, {"views": [asdict(view) for view in _entries(subject, reference_camera)]})
        for number, (image, condition) in enumerate(zip(images, conditions, strict=True)):
            name = view_name(number)
            to_image(image).save(place / f"{name}.png")
            to_image(condition).save(place / f"{name}.condition.png")
            Image.fromarray(subject.truths[number]).save(place / f"{name}.truth.png")
            if subject.masks is not None:
                Image.fromarray(subject.masks[number]).save(place / f"{name}.mask.png")


def _collect(plan: PredictionPlan) -> Predictions:
    """Write the manifest of predictions that are complete, and load it, which checks them."""
    files = [plan.folder / key / VIEWS for key in plan.subjects.keys]
    views = [View.parse(entry, str(file)) for file in files for entry in read_json(file)["views"]]
    Predictions(plan.folder, plan.system, plan.protocol, tuple(views), plan.settings or {}).save()
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
