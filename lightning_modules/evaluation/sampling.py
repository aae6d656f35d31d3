"""Making the predictions of a model: every subject once, whole or not at all, and going on where it stopped.

Shape letters: B subjects, K views, R references, S image side.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from core.files import whole_folder, write_json
from core.tensors import read_json
from generators.base import Renderer
from generators.registry import RendererChoice, check_renderer, renderer_record
from lightning_modules.evaluation.moving import moved
from lightning_modules.evaluation.subjects import Subject, Subjects
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline, to_image
from lightning_modules.sampling.settings import PAPER, Sampling
from lightning_modules.sampling.view_conditions import prepare_renderer
from portraits.pixels import to_pixels
from portraits.predictions import Predictions, View
from shards.manifest import MANIFEST as SHARDS_MANIFEST

ENDS = 1 << 16  # bytes read of either end of a weights file to tell it from others
SETTINGS, VIEWS, REFERENCE = "settings.json", "views.json", "reference.png"


@dataclass(frozen=True)
class Made:
    """How predictions are made.

    Args:
        model: a model folder
        subjects: of whom
        alignment: aligned references are as the shards have them; moved ones are shifted, scaled and tilted
            (Table 1b)
        shift: of a moved reference, as a share of the side
        scale: of a moved reference
        tilt: of a moved reference, degrees
        reference_network: the trained F_ref, or an untrained copy of F in its place (Table 1b)
        conditions: those of the shards, or of another person rendered at the same cameras (B.4)
        renderer: of other conditions
        identity: the first of the numbers of the people rendered
        sampling: steps (the paper takes 100), guidance, where sampling starts (noise, Table 2) and so on
        precision: of the networks
        batch: subjects sampled at a time
    """

    model: str = "checkpoints/mini"
    subjects: Subjects = field(default_factory=Subjects)
    alignment: Literal["aligned", "moved"] = "aligned"
    shift: float = 0.12
    scale: float = 0.8
    tilt: float = 20.0
    reference_network: Literal["trained", "untrained"] = "trained"
    conditions: Literal["shards", "others"] = "shards"
    renderer: RendererChoice = "synthetic"
    identity: int = 1_000_000
    sampling: Sampling = PAPER
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    batch: int = 4

    def digest(self) -> str:
        """Eight characters that tell these predictions from others: of every setting that changes them, and
        of the weights and the data themselves."""
        settings = asdict(self)
        settings.pop("batch")
        settings["sampling"].pop("chunk")
        settings["subjects"].pop("cache_dir")
        settings["renderer"] = renderer_record(self.renderer) if self.conditions == "others" else None
        content = json.dumps(settings, sort_keys=True).encode()
        digest = hashlib.sha256(content)
        for path in sorted(Path(self.model).rglob("*.safetensors")):
            digest.update(path.name.encode() + _ends(path))
        manifest = Path(self.subjects.shards) / SHARDS_MANIFEST
        if manifest.is_file():
            digest.update(manifest.read_bytes())
        return digest.hexdigest()[:8]


def make(made: Made, folder: Path, part: tuple[int, int] = (0, 1), device: str = "cpu") -> Predictions | None:
    """The predictions in `folder`, sampling what is not there yet.

    `part` (i, n) makes every n-th subject only, from the i-th on, for several machines that share the folder;
    None comes back where others' parts are missing then. Raises InputError on what does not fit, before
    anything is sampled.
    """
    subjects = made.subjects.keys()
    if made.conditions == "others":
        check_renderer(made.renderer)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, asdict(made))
    mine = set(subjects[part[0] :: part[1]])
    waiting = [key for key in subjects if key in mine and not (folder / key).is_dir()]
    if waiting:
        _sample(made, folder, set(waiting), device)
    if not all((folder / key).is_dir() for key in subjects):
        return None
    return _finish(made, folder, subjects)


def _sample(made: Made, folder: Path, waiting: set[str], device: str) -> None:
    pipeline = open_model(made).to(device)
    renderer = prepare_renderer(made.renderer) if made.conditions == "others" else None
    pending = made.subjects.read(waiting)
    with tqdm(total=len(waiting), desc="sampling", unit="subject") as bar:
        for batch in batches(pending, made.batch):
            shown = [shown_references(subject, made) for subject in batch]
            conditions = [shown_conditions(subject, made, renderer) for subject in batch]
            views = _views(pipeline, made, batch, shown, conditions)
            for subject, references, condition, images in zip(batch, shown, conditions, views, strict=True):
                own = subject.reference_cameras[0].tolist() if made.alignment == "aligned" else None
                write_subject(folder / subject.key, subject, references, condition, images, own)
            bar.update(len(batch))


def open_model(made: Made) -> DiffPortrait3DPipeline:
    """The pipeline that makes the predictions. Raises InputError where the folder holds none."""
    pipeline = DiffPortrait3DPipeline.from_pretrained(made.model, getattr(torch, made.precision))
    if made.reference_network == "trained":
        return pipeline
    model = pipeline.model
    return DiffPortrait3DPipeline.of(
        replace(model, reference=AppearanceReference.from_unet(model.backbone.unet).eval())
    )


def batches(subjects: Iterator[Subject], size: int) -> Iterator[list[Subject]]:
    """Subjects, `size` at a time, neighbours with as many views."""
    for _, alike in groupby(subjects, lambda subject: (len(subject.references), len(subject.truths))):
        group: list[Subject] = []
        for subject in alike:
            group.append(subject)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group


def shown_references(subject: Subject, made: Made) -> Tensor:
    """The references (R, 3, S, S) in [-1, 1] as the model sees them."""
    references = to_pixels(subject.references)
    if made.alignment == "aligned":
        return references
    return moved(references, made.shift, made.scale, made.tilt)


def shown_conditions(subject: Subject, made: Made, renderer: Renderer | None = None) -> Tensor:
    """The conditions (K, 3, S, S) in [-1, 1]: the shards', or where there is a renderer another person's at
    the same cameras."""
    if renderer is None:
        return to_pixels(subject.conditions)
    identity = made.identity + int(hashlib.sha256(subject.key.encode()).hexdigest()[:5], 16)
    side = subject.conditions.shape[1]
    return to_pixels(renderer.render(identity, subject.cameras, side).images)


def _views(
    pipeline: DiffPortrait3DPipeline,
    made: Made,
    batch: Sequence[Subject],
    references: Sequence[Tensor],
    conditions: Sequence[Tensor],
) -> Tensor:
    """Predicted views (B, K, 3, S, S) in [-1, 1]."""
    side = pipeline.image_size
    if references[0].shape[-1] != side:
        raise InputError(f"{made.model} makes {side}x{side} images; {made.subjects.shards} has other sides")
    cameras = torch.from_numpy(np.stack([subject.cameras for subject in batch]))
    return pipeline.views(
        torch.stack(list(references)),
        torch.stack(list(conditions)) if pipeline.view_control is not None else None,
        cameras if pipeline.noise_prior is not None else None,
        seeds=[f"{made.subjects.seed} {subject.key}" for subject in batch],
        count=len(batch[0].truths),
        sampling=made.sampling,
    )


def write_subject(
    folder: Path,
    subject: Subject,
    references: Tensor,
    conditions: Tensor,
    images: Tensor,
    reference_camera: list[float] | None,
) -> None:
    """A subject's folder: predictions, and what they are held against. `reference_camera` is the label (25,)
    of the first reference as it is shown, None where it was moved."""
    with whole_folder(folder) as place:
        to_image(references[0]).save(place / REFERENCE)
        write_json(place / VIEWS, {"views": [asdict(view) for view in _entries(subject, reference_camera)]})
        for number, (image, condition) in enumerate(zip(images, conditions, strict=True)):
            to_image(image).save(place / f"{number:03d}.png")
            to_image(condition).save(place / f"{number:03d}.condition.png")
            Image.fromarray(subject.truths[number]).save(place / f"{number:03d}.truth.png")
            if subject.masks is not None:
                Image.fromarray(subject.masks[number]).save(place / f"{number:03d}.mask.png")


def _finish(made: Made, folder: Path, subjects: Sequence[str]) -> Predictions:
    """Write the manifest of predictions that are all there, and load it, which checks them."""
    places = [folder / subject / VIEWS for subject in subjects]
    views = [View.parse(entry, str(place)) for place in places for entry in read_json(place)["views"]]
    Predictions(folder, Path(made.model).name, made.subjects.protocol, tuple(views), asdict(made)).save()
    return Predictions.load(folder)


def _entries(subject: Subject, reference_camera: list[float] | None) -> Iterator[View]:
    for number, camera in enumerate(subject.cameras.tolist()):
        stem = f"{subject.key}/{number:03d}"
        yield View(
            subject.key,
            f"{number:03d}",
            reference=f"{subject.key}/{REFERENCE}",
            camera=camera,
            truth=f"{stem}.truth.png",
            condition=f"{stem}.condition.png",
            mask=None if subject.masks is None else f"{stem}.mask.png",
            reference_camera=reference_camera,
        )


def _ends(path: Path) -> bytes:
    """The size of a file and the bytes of both of its ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        return str(size).encode() + first + file.read(ENDS)
