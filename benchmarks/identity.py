"""`python -m benchmarks.identity`: typical scores of ID, for every available recogniser.

On a built folder with known cameras, such as the synthetic capture, of 128 pixels or more, it prints the
cosines between frontal views of different people, with their highest tail, and between a person's most
frontal view and other views, by yaw.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.pose import EDGES, people
from core.errors import InputError, one_line
from lightning_modules.evaluation.subjects import Subject
from metrics.catalogue import CATALOGUE
from metrics.faces import FaceReader, Reading
from metrics.identity import RECOGNISERS, recogniser
from portraits.cameras import angles
from portraits.pixels import to_pixels
from shards.schema import Split

FRONTAL = 30  # degrees; largest yaw of references, and of views in which different people are compared
TAIL = 0.99  # quantile of the highest 1 % of different people


class Faces(NamedTuple):
    """One person's readings and the yaws of their cameras in degrees."""

    readings: list[Reading]
    yaws: NDArray[np.float64]


class Scores(NamedTuple):
    """Cosines between different people (P,), and between views of one person (V,) with their yaws (V,) in
    degrees."""

    strangers: NDArray[np.float64]
    same: NDArray[np.float64]
    yaws: NDArray[np.float64]


def read_faces(subjects: Sequence[Subject]) -> list[Faces]:
    """The faces in everyone's views; those that no detector finds are located by their cameras."""
    reader = FaceReader()
    found = []
    for subject in tqdm(subjects, desc="views of", unit="person"):
        readings = reader.read(to_pixels(subject.truths), torch.from_numpy(subject.cameras))
        kept = [index for index, reading in enumerate(readings) if reading is not None]
        faces = [reading for reading in readings if reading is not None]
        yaws = np.abs(np.degrees(angles(subject.cameras))[:, 0])
        found.append(Faces(faces, yaws[kept]))
    return found


def scores(people_faces: Sequence[Faces], weights: str) -> Scores:
    """The cosines by one recogniser. Raises InputError if fewer than two people have a frontal view."""
    embed = recogniser(weights)
    references: list[Tensor] = []
    same, yaws = [], []
    for faces in people_faces:
        if not len(faces.yaws) or faces.yaws.min() > FRONTAL:
            continue
        unit = F.normalize(embed(faces.readings), dim=1)
        first = int(faces.yaws.argmin())
        others = [index for index in range(len(unit)) if index != first]
        references.append(unit[first])
        same += (unit[others] @ unit[first]).tolist()
        yaws += faces.yaws[others].tolist()
    if len(references) < 2:
        raise InputError(f"fewer than two people have a view within {FRONTAL}° of yaw that shows a face")
    strangers = [float(first @ second) for first, second in combinations(references, 2)]
    return Scores(np.array(strangers), np.array(same), np.array(yaws))


def table(found: dict[str, Scores]) -> str:
    """Cosines of different people, and of one person by yaw (median and lowest decile), as Markdown."""
    bins = list(pairwise(EDGES))
    head = ["strangers, median", "their highest 1 %", *(f"same person, {low}-{high}°" for low, high in bins)]
    lines = [f"| ID | {' | '.join(head)} |", "|---|" + "---:|" * len(head)]
    for name, cosines in found.items():
        cells = [f"{np.median(cosines.strangers):.2f}", f"{np.quantile(cosines.strangers, TAIL):.2f}"]
        for low, high in bins:
            inside = cosines.same[(cosines.yaws >= low) & (cosines.yaws < high)]
            cells.append(f"{np.median(inside):.2f} ({np.quantile(inside, 0.1):.2f})" if len(inside) else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def benchmark(
    shards: str = "shards/built/synthetic",
    split: Split = "test",
    frames: int | None = None,
) -> str:
    """The table, with the lowest decile in brackets.

    Args:
        shards: a built folder with known cameras, of images of 128 pixels or more
        split: split of the shards
        frames: number of frames; all by default
    """
    faces = read_faces(list(people(shards, split, frames)))
    return table({name: scores(faces, name) for name in RECOGNISERS if CATALOGUE[name].available})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.identity", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(benchmark)
    print(benchmark(**parser.parse_args(arguments).as_dict()))


if __name__ == "__main__":
    with one_line():
        main()
