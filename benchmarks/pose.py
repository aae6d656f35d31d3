"""`python -m benchmarks.pose`: errors of POSE against known cameras, by landmark detector and by yaw.

Takes a built folder with known cameras, such as the synthetic capture, best of 128 pixels or more
(`python -m shards.build synthetic --size 128 …`): landmarks are less accurate in smaller images, such as the
64 pixels of the default folder. `--fit_points true` instead prints the mean positions of dlib's landmarks on
its people in EG3D's coordinates. `FACE_51` of `metrics.landmarks` was fitted in this way, on other people
than those of the published errors.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from tqdm import tqdm

from core.errors import InputError, one_line
from lightning_modules.evaluation.subjects import Subject, SubjectSettings, find_subjects
from metrics.catalogue import CATALOGUE
from metrics.faces import FaceReader, Reading
from metrics.landmarks import HEAD_CAMERAS, JAW, SixtyEightPointCameras
from metrics.pose import CameraPOSE
from portraits.cameras import angles, split_label
from portraits.geometry import triangulate
from portraits.pixels import to_pixels
from shards.manifest import Manifest
from shards.schema import Split

EDGES = (0, 15, 30, 45, 60, 75)
MAX_FIT_YAW = 30  # degrees; at larger yaws some landmarks are hidden
MIN_FIT_VIEWS = 4  # least number of views for triangulating a person's landmarks
# each landmark's mirror image: brows, bridge and tip of the nose, nostrils, eyes, outer and inner lips
MIRRORED = (
    *range(9, -1, -1),
    *range(10, 14),
    *range(18, 13, -1),
    *(28, 27, 26, 25, 30, 29, 22, 21, 20, 19, 24, 23),
    *(37, 36, 35, 34, 33, 32, 31, 42, 41, 40, 39, 38),
    *(47, 46, 45, 44, 43, 50, 49, 48),
)


def people(shards: str, split: Split, frames: int | None) -> Iterator[Subject]:
    """Subjects with all views of a frame as truths, and no reference."""
    subjects = find_subjects(SubjectSettings(shards, split=split, frames=frames, references=0))
    yield from subjects.read(subjects.keys)


def errors(subjects: Iterator[Subject]) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """The true yaw of every view (N,), in degrees, and by landmark detector the absolute errors of yaw, pitch
    and roll (N, 3), NaN where no face is found."""
    reader = FaceReader()
    metrics = {name: CameraPOSE(name, reader) for name in HEAD_CAMERAS if CATALOGUE[name].available}
    yaws: list[Any] = []
    rows: dict[str, list[Any]] = {name: [] for name in metrics}
    for subject in tqdm(subjects, desc="views of", unit="person"):
        found = reader.read(to_pixels(subject.truths), torch.from_numpy(subject.cameras))
        yaws.append(np.degrees(angles(subject.cameras))[:, 0])
        for name, metric in metrics.items():
            rows[name].append(metric.scores(found, torch.from_numpy(subject.cameras))[:, 1:].double().numpy())
    return np.concatenate(yaws), {name: np.concatenate(parts) for name, parts in rows.items()}


def title(shards: str) -> str:
    """The title of a table. Raises InputError if there are no such shards."""
    return f"Median errors of POSE in images of {Manifest.load(Path(shards)).image_size} pixels"


def table(yaws: NDArray[np.float64], found: dict[str, NDArray[np.float64]]) -> str:
    """Median errors by yaw and landmark detector, as Markdown."""
    head = [f"{angle}, {name}" for angle in ("yaw", "pitch", "roll") for name in found]
    lines = [f"| yaw | faces | {' | '.join(head)} |", "|---|---|" + "---:|" * len(head)]
    faces = np.isfinite(next(iter(found.values()))[:, 0])
    for low, high in pairwise(EDGES):
        inside = (np.abs(yaws) >= low) & (np.abs(yaws) < high)
        seen = inside & faces
        medians = [
            np.median(own[seen, axis]) if seen.any() else np.nan
            for axis in range(3)
            for own in found.values()
        ]
        cells = " | ".join(f"{value:.1f}°" for value in medians)
        lines.append(f"| {low}-{high}° | {seen.sum()} of {inside.sum()} | {cells} |")
    return "\n".join(lines)


def fit(subjects: Iterator[Subject]) -> NDArray[np.float64]:
    """The positions of dlib's 51 landmarks (51, 3) in EG3D's coordinates: triangulated for each person, then
    the median over people, made symmetric. Raises InputError if nobody has enough views."""
    reader, finder = FaceReader(), SixtyEightPointCameras()
    faces = []
    for subject in tqdm(subjects, desc="views of", unit="person"):
        near = np.abs(np.degrees(angles(subject.cameras))[:, 0]) < MAX_FIT_YAW
        readings = reader.read(to_pixels(subject.truths[near]))
        views = [(r, c) for r, c in zip(readings, subject.cameras[near], strict=True) if r is not None]
        if len(views) >= MIN_FIT_VIEWS:
            faces.append(triangulated(views, finder))
    if not faces:
        raise InputError(f"nobody has {MIN_FIT_VIEWS} views within {MAX_FIT_YAW}° of yaw that show a face")
    face = np.median(faces, axis=0)
    mirrored = face[list(MIRRORED)] * (-1, 1, 1)
    return (face + mirrored) / 2


def triangulated(
    views: Sequence[tuple[Reading, NDArray[np.float32]]], finder: SixtyEightPointCameras
) -> NDArray[np.float64]:
    """One person's landmarks (51, 3), triangulated from views with known cameras."""
    seen, projections = [], []
    for reading, camera in views:
        square = reading.square
        pixels = finder.points(reading)[JAW:] * square.side + (square.left, square.top)
        seen.append((pixels + 0.5) / len(reading.image))
        pose, intrinsics = split_label(camera.astype(np.float64))
        projections.append(intrinsics @ np.linalg.inv(pose)[:3])
    return np.stack([triangulate(projections, points) for points in np.stack(seen, axis=1)])


def benchmark(
    shards: str = "shards/built/synthetic",
    split: Split = "test",
    frames: int | None = None,
    fit_points: bool = False,
) -> str:
    """The table of errors, or the fitted landmarks.

    Args:
        shards: a built folder with known cameras, best with images of 128 pixels or more
        split: split of the shards
        frames: number of frames; all by default
        fit_points: print the fitted positions of dlib's landmarks instead
    """
    subjects = people(shards, split, frames)
    if fit_points:
        return np.array2string(
            fit(subjects), precision=4, suppress_small=True, separator=", ", threshold=1000
        )
    return f"{title(shards)}\n\n{table(*errors(subjects))}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.pose", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(benchmark)
    print(benchmark(**parser.parse_args(arguments).as_dict()))


if __name__ == "__main__":
    with one_line():
        main()
