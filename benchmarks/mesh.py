"""`python -m benchmarks.mesh --model checkpoints/mini`: the shape that S sees in a portrait, against the true
meshes of the built-in people.

Each person is rendered from the front, and S reconstructs a surface from the portrait. The truth is the part
of the person's own meshes, hair and shoulders included, that is visible from cameras all around. Distances
are between nearest points, both ways, inside the cube of S's volume, in per cent of the head's height from
chin to crown. For comparison, the distances of another person's truth are given: those of a surface that is a
head, but not this person's.

Shape letters: P points of a surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree
from tqdm import tqdm

from core.errors import InputError, one_line
from core.seeding import numpy_generator
from generators.base import Place
from generators.parametric.anatomy import anatomy
from generators.parametric.light import cast
from generators.parametric.lit_scene import LitScene, perspective
from generators.parametric.person import Person, sample_person
from generators.parametric.renderer import capture_instant, render_on_threads, studio_instant
from generators.parametric.scene import HeadScene
from lightning_modules.assets.head import Head
from lightning_modules.networks.portrait import NOISE_PRIOR
from lightning_modules.sampling.model_summary import ModelSummary
from portraits.cameras import label_from_angles

Points = NDArray[np.float64]

STREAM = 0x3E5  # first part of the key of the people's random stream, which no capture uses
SAMPLES = 24  # light paths a pixel of a portrait
RAYS = 160  # along the side of an image in which the truth is looked for
PITCHES, YAWS = (-30.0, 0.0, 30.0, 60.0), range(0, 360, 45)  # degrees; of the cameras that see the truth
QUERIES = 20_000  # random points of a surface whose distances are measured, at most
CHIN_DEPTH = 0.015  # metres: the chin is no further behind the mouth's corners than this


@dataclass(frozen=True)
class MeshBenchmark:
    """Measure the error of S's surfaces.

    Args:
        model: a model folder with S
        people: number of people
        place: the built-in renderer's place in which they are rendered
        level: density at S's surface, as in `export-3d`
        resolution: number of density samples along each side of S's cube
        seed: seed from which the people are drawn
    """

    model: str = "checkpoints/mini"
    people: int = 8
    place: Place = "anywhere"
    level: float = 1.5
    resolution: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InputError on values out of range."""
        if self.people < 2 or self.seed < 0:
            raise InputError(
                f"--people {self.people} --seed {self.seed}: give 2 people or more, and 0 or more"
            )


class Truth(NamedTuple):
    """A person's portrait (S, S), the points (P, 3) that cameras see of them, and their head's height."""

    portrait: Image.Image
    points: Points
    height: float


class Distances(NamedTuple):
    """Median and 90th percentile of nearest distances from one surface to another, in per cent."""

    median: float
    ninetieth: float


def true_person(number: int, seed: int, place: Place, size: int) -> Truth:
    """One of the built-in people, in front of the camera. Units are EG3D's."""
    rng = numpy_generator(STREAM, seed, number)
    person = sample_person(rng)
    scene: HeadScene | LitScene
    if place == "studio":
        scene = studio_instant(person, rng, size)[1]
    else:
        scene = capture_instant(person, rng, size, SAMPLES)[1]
    portrait = Image.fromarray(scene.render(label_from_angles(0.0, 0.0)).images[0])
    return Truth(portrait, visible_points(scene), head_height(person))


def visible_points(scene: HeadScene | LitScene) -> Points:
    """The points (P, 3) at which rays of cameras all around a person hit them."""
    found = []
    for pitch in PITCHES:
        for yaw in YAWS:
            label = label_from_angles(float(np.radians(yaw)), float(np.radians(pitch)))
            hits = cast(scene.scene, perspective(label), RAYS, "dd:depth,pp:position")
            found.append(hits[hits[..., 0] > 0][:, 1:4])
    return np.concatenate(found).astype(np.float64)


def head_height(person: Person) -> float:
    """The height from chin to crown of a person's skin, without hair, in EG3D's units."""
    body = anatomy()
    skin = np.unique(body.skin)
    mean = body.template[skin]
    depth, mouth = body.mouth_corner
    # Anny's own frame has z up, and the face looks to -y
    front = (np.abs(mean[:, 0]) < 0.01) & (mean[:, 1] < depth + CHIN_DEPTH) & (mean[:, 2] < mouth)
    own = body.vertices(person.shape, {})[skin]
    scale = body.canonical(person.shape)[0]
    return float(scale * (own[:, 2].max() - own[front, 2].min()))


def distances(points: Points, surface: Points, height: float) -> Distances:
    """Nearest distances from points (P, 3) to a densely sampled surface (P', 3)."""
    chosen = np.random.default_rng(0).permutation(len(points))[:QUERIES]
    nearest = cKDTree(surface).query(points[chosen])[0] / height * 100
    return Distances(float(np.median(nearest)), float(np.percentile(nearest, 90)))


def inside(points: Points, extent: float) -> Points:
    """The points within the cube of half side `extent` about the origin."""
    return points[np.abs(points).max(1) < extent]


def measure(request: MeshBenchmark) -> str:
    """The table, as Markdown. Raises InputError where the model has no S."""
    model = ModelSummary.read(request.model)
    if not model.has_noise_prior:
        raise InputError(f"--model {request.model}: it has no {NOISE_PRIOR}/ (S)")
    render_on_threads(1)
    numbers = tqdm(range(request.people), desc="true meshes", unit="person")
    truths = [true_person(number, request.seed, request.place, model.image_size) for number in numbers]
    rows: dict[str, list[Distances]] = {}
    for number, truth in enumerate(tqdm(truths, desc="surfaces", unit="person")):
        head = Head.of([truth.portrait], Path(model.folder) / NOISE_PRIOR)
        extent = head.prior.config.extent
        # where the mesh is cut off by the cube there is no surface to compare
        border = extent - 4 * extent / request.resolution
        surface = inside(head.surface(request.level, request.resolution).vertices, border)
        whole = truth.points
        pairs = {
            "S to truth": (surface, whole),
            "truth to S": (inside(whole, border), surface),
            "another person to truth": (inside(truths[number - 1].points, border), whole),
        }
        for name, (points, target) in pairs.items():
            rows.setdefault(name, []).append(distances(points, target, truth.height))
    return table(rows, truths)


def table(rows: dict[str, list[Distances]], truths: Sequence[Truth]) -> str:
    """Means over people, and the range of their medians."""
    heights = [truth.height for truth in truths]
    lines = [
        f"{len(truths)} people; a head is {np.mean(heights):.2f} of EG3D's units high",
        "",
        "| distance in % of the head's height | median | range of people | 90th percentile |",
        "|---|---:|---:|---:|",
    ]
    for name, found in rows.items():
        medians, ends = (np.array(column) for column in zip(*found, strict=True))
        span = f"{medians.min():.1f}-{medians.max():.1f}"
        lines.append(f"| {name} | {medians.mean():.1f} | {span} | {ends.mean():.1f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.mesh", description=__doc__.split("\n", 1)[0])
    parser.add_class_arguments(MeshBenchmark)
    print(measure(MeshBenchmark(**parser.parse_args(arguments).as_dict())))


if __name__ == "__main__":
    with one_line():
        main()
