"""Scoring of predictions: per view, and of all views as a set.

Shape letters: N views, S image side.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from core.lists import shortened
from lightning_modules.evaluation.subjects import Background
from metrics.faces import Reading
from metrics.sets import FID
from metrics.suite import MetricSuite
from portraits.alignment.photos import open_photo, photo_size
from portraits.cameras import angles
from portraits.pixels import to_pixels
from portraits.predictions import FILES, Predictions, View

WHITE = 255
# Each is given for every view or for none; otherwise the means of one row would be over different views.
INPUTS = ("reference", "camera", "truth", "condition")


@dataclass(frozen=True)
class ScoringPlan:
    """Settings for scoring the predictions of a row.

    Args:
        suite: the metrics, on `device`
        device: device of the metrics
        size: side in pixels that images are resized to
        native: side of each predicted image before resizing, by view name
        background: keep it, or replace it by white
        real: real portraits for FID and KID; None for the truths
        batch: number of views scored at a time
    """

    suite: MetricSuite
    device: str
    size: int
    native: Mapping[str, int]
    background: Background = "keep"
    real: tuple[Path, ...] | None = None
    batch: int = 16


@dataclass(frozen=True)
class ViewScore:
    """One view's scores by metric, NaN if it could not be scored; `yaw` and `pitch` of its camera in degrees,
    NaN without a camera; and `native`, the side of the predicted image in pixels before resizing."""

    view: View
    yaw: float
    pitch: float
    native: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """The scores of a row.

    Args:
        predictions: the scored predictions
        size: side in pixels at which they were scored
        views: the scores of every view
        sets: FID and KID
        failures: number of pairs that could not be scored, by metric
        higher: whether higher is better, by metric
        notes: remarks below the table
    """

    predictions: Predictions
    size: int
    views: list[ViewScore]
    sets: dict[str, float]
    failures: dict[str, int]
    higher: dict[str, bool]
    notes: list[str] = field(default_factory=list)


def score(predictions: Predictions, plan: ScoringPlan) -> Scores:
    """Score all views. Raises InputError if an image cannot be read."""
    suite = plan.suite.to(plan.device)
    suite.reset()
    references = _read_references(predictions, plan) if len(suite.faces) else {}
    scored: list[ViewScore] = []
    with tqdm(total=len(predictions.views), desc="scoring", unit="view") as bar:
        for views in predictions.subjects().values():
            for start in range(0, len(views), plan.batch):
                batch = views[start : start + plan.batch]
                scored += _by_view(batch, _score_views(predictions.folder, batch, plan, references), plan)
                bar.update(len(batch))
    _add_real(plan)
    means = suite.compute()
    labels = [metric.label for metric in suite.sets]
    return Scores(
        predictions,
        plan.size,
        scored,
        {label: means[label] for label in labels if label in means},
        {name: int(value) for name, value in means.items() if "_failures" in name},
        suite.directions,
        [
            *_size_notes(plan),
            *_failure_notes(means, len(scored)),
            *_reference_notes(references),
            *fid_notes(suite, means, len(scored)),
        ],
    )


def check_inputs(predictions: Predictions) -> None:
    """Raise InputError unless each of reference, camera, truth and condition is given for every view or for
    none."""
    for kind in INPUTS:
        missing = [view.name for view in predictions.views if getattr(view, kind) is None]
        if 0 < len(missing) < len(predictions.views):
            raise InputError(
                f"{predictions.folder}: {len(missing)} of {len(predictions.views)} views have no {kind}:"
                f" {shortened(missing)}; give it for every view or for none, so that all means are over the"
                " same views"
            )


def native_sizes(predictions: Predictions, size: int | None = None) -> dict[str, int]:
    """The side in pixels of every predicted image, by view name.

    Raises InputError if a prediction or one of its inputs is not square, or predictions have several sizes
    and no `size` is given to score them at.
    """
    images = [view.image for view in predictions.views]
    inputs = [getattr(view, kind) for view in predictions.views for kind in FILES]
    sides = square_sizes(predictions.folder, [*images, *(name for name in inputs if name is not None)])
    native = {view.name: sides[view.image] for view in predictions.views}
    if size is None and len(set(native.values())) > 1:
        raise InputError(
            f"{predictions.folder}: predictions have several sizes ({describe_sizes(native)}):"
            " --scoring.size SIDE chooses one to score them at"
        )
    return native


def square_sizes(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """The side in pixels of every image, by name. Raises InputError if one is not square, as resizing it to a
    square would distort it."""
    files = tqdm(dict.fromkeys(names), desc="image sizes", unit="image", leave=False)
    sizes = {name: photo_size(folder / name) for name in files}
    odd = [f"{name} {width}x{height}" for name, (width, height) in sizes.items() if width != height]
    if odd:
        raise InputError(
            f"{folder}: {len(odd)} images are not square ({shortened(odd)}): crop all images alike"
        )
    return {name: width for name, (width, _) in sizes.items()}


def describe_sizes(sides: Mapping[str, int]) -> str:
    """Describe the number of images of each size, e.g. "5 of 16x16, 1 of 32x32"."""
    counts = Counter(sides.values())
    return ", ".join(f"{counts[side]} of {side}x{side}" for side in sorted(counts))


def check_masks(predictions: Predictions) -> None:
    """Raise InputError if a view has no mask or no truth, so that its background cannot be removed."""
    missing = [view.name for view in predictions.views if view.mask is None or view.truth is None]
    if missing:
        raise InputError(
            f"{predictions.folder}: removing the background needs a mask and a truth for every view;"
            f" {len(missing)} of {len(predictions.views)} have none: {shortened(missing)}"
        )


def check_set_sizes(where: str, suite: MetricSuite, predictions: int, real: int) -> None:
    """Raise InputError if there are too few images for the FID or KID of a suite."""
    labels = [metric.label for metric in suite.sets]
    if labels and min(predictions, real) < 2:
        raise InputError(
            f"{', '.join(labels)} of {where}: {predictions} predictions and {real} real images; at least two"
            " of each are needed, and --scoring.real DIR names a folder of real portraits"
        )


def fid_notes(suite: MetricSuite, names: Mapping[str, float], images: int) -> list[str]:
    """A remark on the bias of an FID over few images, if `names` include FID."""
    notes = (
        metric.note(images) for metric in suite.sets if isinstance(metric, FID) and metric.label in names
    )
    return [note for note in notes if note is not None]


def _score_views(
    folder: Path, views: Sequence[View], plan: ScoringPlan, references: Mapping[str, Reading | None]
) -> dict[str, Tensor]:
    """The scores (N,) by metric of views of one subject."""
    images = read_images([folder / view.image for view in views], plan.size)
    truth = _read_inputs(folder, views, "truth", plan.size)
    if plan.background == "remove" and truth is not None:
        masks = [folder / str(view.mask) for view in views]
        images, truth = _over_white(images, masks), _over_white(truth, masks)
    cameras = [view.camera for view in views]
    person = pose = None
    if truth is None:
        names = [view.reference for view in views]
        person = None if None in names else [references.get(str(name)) for name in names]
        pose = _read_inputs(folder, views, "condition", plan.size)
    return plan.suite.update(
        images.to(plan.device),
        None if truth is None else truth.to(plan.device),
        person=person,
        pose=pose,
        cameras=None if None in cameras else torch.tensor(cameras),
        real=None if plan.real is None else images[:0].to(plan.device),
    )


def _read_inputs(folder: Path, views: Sequence[View], kind: str, size: int) -> Tensor | None:
    """The views' files of a kind (N, 3, S, S); None if there are none."""
    names = [getattr(view, kind) for view in views]
    return None if None in names else read_images([folder / name for name in names], size)


def _read_references(predictions: Predictions, plan: ScoringPlan) -> dict[str, Reading | None]:
    """The face in every reference, by file name; None if none is found."""
    names = dict.fromkeys(view.reference for view in predictions.views if view.reference is not None)
    return {
        name: plan.suite.reader.read(read_images([predictions.folder / name], plan.size))[0]
        for name in tqdm(names, desc="references", unit="portrait")
    }


def read_images(paths: Sequence[Path], size: int) -> Tensor:
    """Read images (N, 3, S, S) in [-1, 1], resized to S = `size`. Raises InputError if one cannot be read."""
    images = [open_photo(path) for path in paths]
    resized = [
        image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS)
        for image in images
    ]
    return to_pixels(np.stack([np.asarray(image) for image in resized]))


def _over_white(images: Tensor, masks: Sequence[Path]) -> Tensor:
    """Images (N, 3, S, S) composited over white by foreground masks."""
    size = images.shape[-1]
    alphas = [
        np.asarray(open_photo(mask).convert("L").resize((size, size), Image.Resampling.BILINEAR)) / WHITE
        for mask in masks
    ]
    alpha = torch.from_numpy(np.stack(alphas)).float()[:, None]
    return images * alpha + (1 - alpha)


def _add_real(plan: ScoringPlan) -> None:
    if plan.real is None or not len(plan.suite.sets):
        return
    for start in tqdm(range(0, len(plan.real), plan.batch), desc="real portraits", unit="batch"):
        images = read_images(plan.real[start : start + plan.batch], plan.size)
        plan.suite.add_real(images.to(plan.device))


def _by_view(views: Sequence[View], scores: Mapping[str, Tensor], plan: ScoringPlan) -> Iterator[ViewScore]:
    for number, view in enumerate(views):
        camera = np.array(view.camera, dtype=np.float64) if view.camera is not None else None
        yaw, pitch = (np.nan, np.nan) if camera is None else np.degrees(angles(camera)).tolist()
        own = {name: float(values[number]) for name, values in scores.items()}
        yield ViewScore(view, yaw, pitch, plan.native[view.name], own)


def _size_notes(plan: ScoringPlan) -> list[str]:
    """A remark if images were resized."""
    if set(plan.native.values()) == {plan.size}:
        return []
    return [f"{describe_sizes(plan.native)} pixels, scored at {plan.size}x{plan.size}"]


def _failure_notes(means: Mapping[str, float], views: int) -> list[str]:
    """A remark for each metric that could not score some views, or scored them by their cameras."""
    notes = []
    for name, value in means.items():
        count = f"{value:.0f} of {views} views"
        if name.endswith("_failures") and value:
            of_truth = int(means.get(f"{name}_of_truth", 0))
            why = f", {of_truth} of them because no face was found in the truth" if of_truth else ""
            rest = "; the mean is over the rest" if value < views else ""
            notes.append(f"{name.removesuffix('_failures')}: {count} could not be scored{why}{rest}")
        if name.endswith("_by_camera") and value:
            notes.append(
                f"{name.removesuffix('_by_camera')}: in {count} the face was located by its camera, as the"
                " detectors were unsure"
            )
    return notes


def _reference_notes(references: Mapping[str, Reading | None]) -> list[str]:
    """A remark if no face was found in some references."""
    missing = [name for name, reading in references.items() if reading is None]
    if not missing:
        return []
    return [f"no face was found in {len(missing)} of {len(references)} references: {shortened(missing)}"]
