"""Scores of predictions: of every view by itself, and of all of them as a set.

Shape letters: N views, S image side.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from core.lists import shortened
from metrics.faces import Reading
from metrics.sets import ENOUGH_FOR_FID, FID
from metrics.suite import MetricSuite
from portraits.alignment.photos import open_photo, photo_files, photo_size
from portraits.cameras import angles
from portraits.pixels import to_pixels
from portraits.predictions import FILES, Predictions, View

Background = Literal["keep", "remove"]
WHITE = 255
# what all views have, or none: else figures of one row would be over different views
HELD_AGAINST = ("reference", "camera", "truth", "condition")


@dataclass(frozen=True)
class Scoring:
    """How predictions are scored.

    Args:
        metrics: names, with weights if others than the best on this machine are wanted; all by default
        size: the side that all images are resized to; by default the one that the predictions have
        background: keep it, or make it white by the truth's mask, in truth and prediction alike (Table 3)
        real: a folder of real portraits for FID and KID, where there is no truth
        batch: views scored at a time
    """

    metrics: list[str] | None = None
    size: int | None = None
    background: Background = "keep"
    real: str | None = None
    batch: int = 16


@dataclass(frozen=True)
class ViewScore:
    """One view's scores by metric, NaN where it could not be scored; `yaw` and `pitch` of its camera in
    degrees, NaN where it has none; `native`, the side that the system made it at."""

    view: View
    yaw: float
    pitch: float
    native: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """The scores of some predictions: of each view, of them all (`sets`: FID and KID), how many pairs could
    not be scored by metric, and `higher`, whether more is better by metric. `notes` are lines for people."""

    predictions: Predictions
    size: int
    views: list[ViewScore]
    sets: dict[str, float]
    failures: dict[str, int]
    higher: dict[str, bool]
    notes: list[str] = field(default_factory=list)


def score(predictions: Predictions, scoring: Scoring, device: str = "cpu") -> Scores:
    """Score all views of some predictions. Raises InputError on images and settings that do not fit, before
    any are scored."""
    check_alike(predictions)
    native = check_images(predictions, scoring.size)
    size = scoring.size or max(native.values())
    check_masks(predictions, scoring.background)
    suite = MetricSuite(scoring.metrics).to(device)
    check_sets(predictions, scoring, suite)
    portraits = read_portraits(predictions, size, suite) if len(suite.faces) else {}
    found: list[ViewScore] = []
    with tqdm(total=len(predictions.views), desc="scoring", unit="view") as bar:
        for views in predictions.subjects().values():
            for start in range(0, len(views), scoring.batch):
                some_views = views[start : start + scoring.batch]
                scores = _score_views(predictions, some_views, size, scoring, suite, portraits, device)
                found += _by_view(some_views, scores, native)
                bar.update(len(some_views))
    _add_real(suite, scoring, size, device)
    means = suite.compute()
    labels = [metric.label for metric in suite.sets]
    return Scores(
        predictions,
        size,
        found,
        {label: means[label] for label in labels if label in means},
        {name: int(value) for name, value in means.items() if "_failures" in name},
        suite.directions,
        [*_notes(predictions, native, size, means), *_faceless(portraits), *_few(suite, means, len(found))],
    )


def check_alike(predictions: Predictions) -> None:
    """Raise InputError where some views have a reference, camera, truth or condition and others have none."""
    for kind in HELD_AGAINST:
        lacking = [view.name for view in predictions.views if getattr(view, kind) is None]
        if 0 < len(lacking) < len(predictions.views):
            raise InputError(
                f"{predictions.folder}: {len(lacking)} of {len(predictions.views)} views have no {kind}:"
                f" {shortened(lacking)}; give it to all or to none, so that all figures are over the same"
                " views"
            )


def check_images(predictions: Predictions, size: int | None = None) -> dict[str, int]:
    """The side of every predicted image by view name. Raises InputError where they, or what they are held
    against, are not square, or they differ and no `size` to score them at is stated."""
    images = [view.image for view in predictions.views]
    others = [getattr(view, kind) for view in predictions.views for kind in FILES]
    sides = check_squares(predictions.folder, [*images, *(name for name in others if name is not None)])
    native = {view.name: sides[view.image] for view in predictions.views}
    if size is None and len(set(native.values())) > 1:
        raise InputError(
            f"{predictions.folder}: the images' sizes differ ({counted(native)}); --scoring.size says which"
            " to score them at"
        )
    return native


def check_squares(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """The side of every image by name. Raises InputError where some are not square: resized to a square they
    would be squashed."""
    files = tqdm(dict.fromkeys(names), desc="image sizes", unit="image", leave=False)
    sizes = {name: photo_size(folder / name) for name in files}
    odd = [f"{name} {width}x{height}" for name, (width, height) in sizes.items() if width != height]
    if odd:
        raise InputError(f"{folder}: {len(odd)} images are not square ({shortened(odd)}): crop all alike")
    return {name: width for name, (width, _) in sizes.items()}


def counted(sides: Mapping[str, int]) -> str:
    """How many images there are of each size, in words."""
    counts = Counter(sides.values())
    return ", ".join(f"{counts[side]} of {side}x{side}" for side in sorted(counts))


def check_masks(predictions: Predictions, background: Background) -> None:
    """Raise InputError where the background is to be removed and views have no mask."""
    without = [view.name for view in predictions.views if view.mask is None or view.truth is None]
    if background == "remove" and without:
        raise InputError(
            f"{predictions.folder}: background remove takes a mask and a truth for every view;"
            f" {len(without)} of {len(predictions.views)} have none: {shortened(without)}"
        )


def check_sets(predictions: Predictions, scoring: Scoring, suite: MetricSuite) -> None:
    """Raise InputError where FID or KID is asked for by name and there are no two images of either kind, and
    on real images that are not square."""
    wanted = [metric.label for metric in suite.sets] if scoring.metrics is not None else []
    truths = sum(view.truth is not None for view in predictions.views)
    real = len(real_names(scoring.real)) if scoring.real is not None else truths
    if wanted and min(real, len(predictions.views)) < 2:
        raise InputError(
            f"{', '.join(wanted)} of {predictions.folder}: {len(predictions.views)} predictions and {real}"
            " real images; two of either are the least, and --scoring.real DIR names real portraits"
        )
    if scoring.real is not None and len(suite.sets):
        check_squares(Path(scoring.real), real_names(scoring.real))


def real_names(folder: str) -> list[str]:
    """The photos in a folder and below it, named from it on. Raises InputError where there are none."""
    return [path.relative_to(folder).as_posix() for path in photo_files(Path(folder))]


def _score_views(
    predictions: Predictions,
    views: Sequence[View],
    size: int,
    scoring: Scoring,
    suite: MetricSuite,
    portraits: Mapping[str, Reading | None],
    device: str,
) -> dict[str, Tensor]:
    """The scores (N,) by metric of views of one subject."""
    images = read(predictions.folder, [view.image for view in views], size).to(device)
    truth = _all(predictions.folder, views, "truth", size)
    if scoring.background == "remove" and truth is not None:
        masks = [predictions.folder / str(view.mask) for view in views]
        images, truth = _matted(images.cpu(), masks), _matted(truth, masks)
    cameras = [view.camera for view in views]
    person = pose = None
    if truth is None:
        names = [view.reference for view in views]
        person = None if None in names else [portraits.get(str(name)) for name in names]
        pose = _all(predictions.folder, views, "condition", size)
    own_real = None if scoring.real is None else images[:0]
    return suite.update(
        images.to(device),
        None if truth is None else truth.to(device),
        person=person,
        pose=pose,
        cameras=None if None in cameras else torch.tensor(cameras),
        real=own_real,
    )


def _all(folder: Path, views: Sequence[View], kind: str, size: int) -> Tensor | None:
    """The views' files of a kind (N, 3, S, S), None where none has one."""
    names = [getattr(view, kind) for view in views]
    return None if None in names else read(folder, names, size)


def read_portraits(predictions: Predictions, size: int, suite: MetricSuite) -> dict[str, Reading | None]:
    """What is read of every reference, once, by its file; None where it shows no face."""
    names = dict.fromkeys(view.reference for view in predictions.views if view.reference is not None)
    return {
        name: suite.reader.read(read(predictions.folder, [name], size))[0]
        for name in tqdm(names, desc="references", unit="portrait")
    }


def read(folder: Path, names: Sequence[str], size: int) -> Tensor:
    """Images (N, 3, S, S) in [-1, 1], resized where they are of another size. Raises InputError."""
    images = [open_photo(folder / name) for name in names]
    resized = [
        image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS)
        for image in images
    ]
    return to_pixels(np.stack([np.asarray(image) for image in resized]))


def _matted(images: Tensor, masks: Sequence[Path]) -> Tensor:
    """Images (N, 3, S, S) over white, by foreground masks."""
    size = images.shape[-1]
    shares = [
        np.asarray(open_photo(mask).convert("L").resize((size, size), Image.Resampling.BILINEAR)) / WHITE
        for mask in masks
    ]
    share = torch.from_numpy(np.stack(shares)).float()[:, None]
    return images * share + (1 - share)


def _add_real(suite: MetricSuite, scoring: Scoring, size: int, device: str) -> None:
    if scoring.real is None or not len(suite.sets):
        return
    names = real_names(scoring.real)
    for start in tqdm(range(0, len(names), scoring.batch), desc="real portraits", unit="batch"):
        suite.add_real(read(Path(scoring.real), names[start : start + scoring.batch], size).to(device))


def _by_view(
    views: Sequence[View], scores: Mapping[str, Tensor], native: Mapping[str, int]
) -> Iterator[ViewScore]:
    for number, view in enumerate(views):
        camera = np.array(view.camera, dtype=np.float64) if view.camera is not None else None
        yaw, pitch = (np.nan, np.nan) if camera is None else np.degrees(angles(camera)).tolist()
        own = {name: float(values[number]) for name, values in scores.items()}
        yield ViewScore(view, yaw, pitch, native[view.name], own)


def _notes(
    predictions: Predictions, native: Mapping[str, int], size: int, means: Mapping[str, float]
) -> list[str]:
    """What a reader of the table has to know."""
    notes = []
    if set(native.values()) != {size}:
        notes.append(f"{counted(native)} pixels, scored at {size}x{size}")
    for name, value in means.items():
        if name.endswith("_failures") and value:
            of_truth = int(means.get(f"{name}_of_truth", 0))
            why = f", {of_truth} of them for want of a face in what it is held against" if of_truth else ""
            notes.append(
                f"{name.removesuffix('_failures')}: {int(value)} of {len(predictions.views)} views could not"
                f" be scored{why}; the mean is over the rest"
            )
    return notes


def _faceless(portraits: Mapping[str, Reading | None]) -> list[str]:
    """A note on references without a face."""
    without = [name for name, reading in portraits.items() if reading is None]
    if not without:
        return []
    return [f"no face is found in {len(without)} of {len(portraits)} references: {shortened(without)}"]


def _few(suite: MetricSuite, means: Mapping[str, float], views: int) -> list[str]:
    """A note on a FID of few images."""
    fid = next((metric.label for metric in suite.sets if isinstance(metric, FID)), None)
    if fid not in means or views >= ENOUGH_FOR_FID:
        return []
    return [
        f"{fid} over {views} images is biased upwards: compare it between equal numbers only, or read KID"
    ]
