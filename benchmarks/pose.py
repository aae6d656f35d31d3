"""`python -m benchmarks.pose`: how far POSE is from cameras that are known, by landmarks and by yaw.

It takes a built folder with known cameras, such as the synthetic capture, of 128 pixels or more
(`python -m shards.build synthetic --size 128 …`): landmarks are coarser in smaller images, as are the default
folder's of 64, and a table is of its shards' size.
`--fit_points true` prints instead where its people have dlib's points in EG3D's frame: `FACE_51` of
`metrics.landmarks` was made so, on other people than those it is measured on.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from tqdm import tqdm

from core.errors import InputError, one_line
from lightning_modules.evaluation.subjects import Subject, Subjects
from metrics.faces import FaceReader, Reading
from metrics.landmarks import HEAD_CAMERAS, JAW, SixtyEightPoints
from metrics.pose import CameraPOSE
from portraits.cameras import angles, split_label
from portraits.geometry import triangulate
from portraits.pixels import to_pixels
from shards.manifest import Manifest

EDGES = (0, 15, 30, 45, 60, 75)
FITTED_TO = 30  # degrees of yaw: beyond, points are hidden and the finder guesses
FEWEST = 4  # views that a person's points are triangulated from
# the mirror image of each of the 51: brows, bridge and tip of the nose, nostrils, eyes, outer and inner lips
MIRRORED = (
    *range(9, -1, -1),
    *range(10, 14),
    *range(18, 13, -1),
    *(28, 27, 26, 25, 30, 29, 22, 21, 20, 19, 24, 23),
    *(37, 36, 35, 34, 33, 32, 31, 42, 41, 40, 39, 38),
    *(47, 46, 45, 44, 43, 50, 49, 48),
)


def people(shards: str, split: Literal["train", "val", "test"], frames: int | None) -> Iterator[Subject]:
    """Frames with all of their views as truths."""
    subjects = Subjects(shards, split=split, frames=frames, references=0)
    yield from subjects.read(subjects.keys())


def errors(subjects: Iterator[Subject]) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """The true yaw of every view (N,), degrees, and by landmarks its absolute errors of yaw, pitch and roll
    (N, 3), NaN where no face is found."""
    reader = FaceReader()
    metrics = {name: CameraPOSE(name, reader) for name in HEAD_CAMERAS}
    yaws, rows = [], {name: [] for name in metrics}
    for subject in tqdm(subjects, desc="views of", unit="person"):
        found = reader.read(to_pixels(subject.truths))
        yaws.append(np.degrees(angles(subject.cameras))[:, 0])
        for name, metric in metrics.items():
            rows[name].append(metric.scores(found, torch.from_numpy(subject.cameras))[:, 1:].double().numpy())
    return np.concatenate(yaws), {name: np.concatenate(some) for name, some in rows.items()}


def title(shards: str) -> str:
    """What a table of these shards is of. Raises InputError where there are none."""
    return f"Median errors of POSE in images of {Manifest.load(Path(shards)).image_size} pixels"


def table(yaws: NDArray[np.float64], found: dict[str, NDArray[np.float64]]) -> str:
    """Medians by yaw and landmarks, as Markdown."""
    head = [f"{angle}, {name}" for angle in ("yaw", "pitch", "roll") for name in found]
    lines = [f"| yaw | faces | {' | '.join(head)} |", "|---|---|" + "---:|" * len(head)]
    faces = np.isfinite(next(iter(found.values()))[:, 0])
    for low, high in pairwise(EDGES):
        inside = (np.abs(yaws) >= low) & (np.abs(yaws) < high)
        seen = inside & faces
        medians = [
            np.median(some[seen, axis]) if seen.any() else np.nan
            for axis in range(3)
            for some in found.values()
        ]
        cells = " | ".join(f"{value:.1f}°" for value in medians)
        lines.append(f"| {low}-{high}° | {seen.sum()} of {inside.sum()} | {cells} |")
    return "\n".join(lines)


def fit(subjects: Iterator[Subject]) -> NDArray[np.float64]:
    """Where dlib's 51 points are on these people (51, 3), in EG3D's frame: triangulated from the views of
    each by their cameras; the median of all, made symmetric. Raises InputError where nobody has enough
    views."""
    reader, finder = FaceReader(), SixtyEightPoints()
    faces = []
    for subject in tqdm(subjects, desc="views of", unit="person"):
        near = np.abs(np.degrees(angles(subject.cameras))[:, 0]) < FITTED_TO
        readings = reader.read(to_pixels(subject.truths[near]))
        views = [(r, c) for r, c in zip(readings, subject.cameras[near], strict=True) if r is not None]
        if len(views) >= FEWEST:
            faces.append(triangulated(views, finder))
    if not faces:
        raise InputError(f"nobody has {FEWEST} views within {FITTED_TO}° of yaw that show a face")
    face = np.median(faces, axis=0)
    mirrored = face[list(MIRRORED)] * (-1, 1, 1)
    return (face + mirrored) / 2


def triangulated(
    views: Sequence[tuple[Reading, NDArray[np.float32]]], finder: SixtyEightPoints
) -> NDArray[np.float64]:
    """One person's points (51, 3) from views with known cameras."""
    seen, projections = [], []
    for reading, camera in views:
        square = reading.aligned.square
        pixels = finder.points(reading)[JAW:] * square.side + (square.left, square.top)
        seen.append((pixels + 0.5) / len(reading.image))
        pose, intrinsics = split_label(camera.astype(np.float64))
        projections.append(intrinsics @ np.linalg.inv(pose)[:3])
    return np.stack([triangulate(projections, points) for points in np.stack(seen, axis=1)])


def benchmark(
    shards: str = "shards/built/synthetic",
    split: Literal["train", "val", "test"] = "test",
    frames: int | None = None,
    fit_points: bool = False,
) -> str:
    """The table, or the points.

    Args:
        shards: a built folder with known cameras, of images of 128 pixels or more
        split: whose people
        frames: how many of them; all by default
        fit_points: print where dlib's points are on these people
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
