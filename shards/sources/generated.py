"""`python -m shards.build panohead --generator DIR` (or `eg3d`): people of a 3D GAN → frames.

Half of the paper's training data are samples of PanoHead, each with a reference and eight targets (section
4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from core.devices import find_device
from core.errors import InputError
from core.fingerprints import of_folder
from core.seeding import numpy_generator
from core.workers import ONLY_WORKER, Worker
from generators.gan.architecture import Kind
from generators.gan.cameras import in_world, measuring_cameras, outside_range, warn_of_range
from generators.gan.generator import Identity
from generators.gan.options import GeneratorOptions, Precision
from generators.gan.renderer import GeneratedHead, as_renders, gpu_processes
from generators.registry import BAKED, RendererChoice, check_renderer, renderer_record
from portraits.alignment.head import HeadFrame, NoHeadError
from portraits.cameras import label_from_angles
from portraits.pixels import check_side
from shards.conditions import Portrait, RenderedConditions
from shards.schema import SPLITS, SampleMeta
from shards.skips import Skip
from shards.sources.splits import Shares, split_by_hash

# How the coordinate frame of a head is determined: measured on each person, on the average person, or the
# generator's own.
Frames = Literal["each", "average", "own"]
CAMERA_STREAM = 1  # key of the random stream of cameras
REFERENCE_YAW = 20.0  # degrees; the largest yaw of the first view
PITCH_SPREAD = 8.0  # degrees; the standard deviation of pitch


@dataclass(frozen=True)
class Batch:
    """One unit of work: the numbers of people of one split that are rendered together."""

    split: str
    identities: tuple[int, ...]


@dataclass(eq=False)
class _Generated(RenderedConditions):
    """One frame of each of `identities` people of a 3D GAN, with exact cameras in EG3D's convention.

    Args:
        generator: the generator's folder, as import-gan writes it
        identities: total number of people in the three splits
        views: cameras per person: a reference near the front, and targets
        size: image side in pixels
        seed: seed of people and cameras; frames are a function of this and the other settings
        truncation: 1 for the full variety of the generator, 0 for its average person
        max_yaw: largest yaw of the targets in degrees; 180 for all around
        max_pitch: largest pitch in degrees, up and down
        frame: the coordinate frame of heads: each measures it on each person (the default for panohead),
            average on the average person; own uses the generator's (the default for eg3d)
        faces: replace people in whom no face is detected by others
        resolution: side of the volume rendering in pixels, 0 for the checkpoint's
        precision: precision of the convolutions
        compile: compile convolutions and decoder first
        batch: people computed together; raise it for a GPU
        device: device such as cpu or cuda:1; by default one process per GPU, if there are any
        val_share: the share of identities held out for validation
        test_share: the share held out for testing
        conditions: the renderer of the condition images: baked, studio, synthetic, eg3d:FOLDER,
            panohead:FOLDER, or a GAN's options; those of a batch show the same people, a person for each view
        licence: the terms under which the images may be used
    """

    kind: ClassVar[Kind]
    name: str = field(init=False)
    settings: dict[str, Any] = field(init=False)
    _head: GeneratedHead | None = field(init=False, repr=False, default=None)

    generator: str
    identities: int = 2000
    views: int = 9
    size: int = 512
    seed: int = 0
    truncation: float = 0.7
    max_yaw: float = 75.0
    max_pitch: float = 20.0
    frame: Frames | None = None
    faces: bool = True
    resolution: int = 0
    precision: Precision = "float32"
    compile: bool = False
    batch: int = 4
    device: str | None = None
    val_share: float = 0.03
    test_share: float = 0.03
    conditions: RendererChoice = BAKED
    licence: str = "generated"

    def __post_init__(self) -> None:
        self.name, self.frame = self.kind, self.frame or ("each" if self.kind == "panohead" else "own")
        check_side(self.size, "--size")
        for option, least in (("identities", 1), ("views", 2), ("batch", 1)):
            if (value := getattr(self, option)) < least:
                raise InputError(f"--{option} {value}: give {least} or more")
        if not (0 < self.max_yaw <= 180 and 0 < self.max_pitch < 90):
            raise InputError(
                f"--max_yaw {self.max_yaw:g} --max_pitch {self.max_pitch:g}: give a yaw of up to 180 and a"
                " pitch of less than 90 degrees, above 0"
            )
        self.options.check(self.kind)
        find_device(self.device)
        check_renderer(self.conditions)
        self.shares.check()
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        del own["device"]  # it affects at most the last bit of images
        own["conditions"] = renderer_record(self.conditions)
        self.settings = own | {"fingerprint": of_folder(Path(self.generator))}

    @property
    def options(self) -> GeneratorOptions:
        """The generator's options."""
        shared = ("truncation", "seed", "faces", "resolution", "precision", "compile")
        return GeneratorOptions(
            self.generator,
            frame="measured" if self.frame == "average" else "own",
            **{name: getattr(self, name) for name in shared},
        )

    @property
    def shares(self) -> Shares:
        """The shares of people held out."""
        return Shares(self.val_share, self.test_share)

    @property
    def processes(self) -> int | None:
        """The suitable number of processes for the generator, independent of the conditions' renderer."""
        return gpu_processes(self.device)

    def head(self, worker: Worker = ONLY_WORKER) -> GeneratedHead:
        """The generator, loaded for `worker` on the first call."""
        if self._head is None:
            self._head = GeneratedHead(self.options, self.device, worker)
        return self._head

    def units(self) -> Sequence[Batch]:
        """Batches of people of one split. Warns of angles outside the generator's training range."""
        furthest = label_from_angles(*np.radians((self.max_yaw, self.max_pitch)))
        if outside_range(furthest[None], self.kind).any():
            warn_of_range(f"--max_yaw {self.max_yaw:g} --max_pitch {self.max_pitch:g} reach", self.kind)
        by_split: dict[str, list[int]] = {split: [] for split in SPLITS}
        for identity in range(self.identities):
            by_split[split_by_hash(f"{self.kind} {self._name_of(identity)}", self.shares)].append(identity)
        return [
            Batch(split, tuple(people[start : start + self.batch]))
            for split, people in by_split.items()
            for start in range(0, len(people), self.batch)
        ]

    def frames(self, unit: Batch) -> int:
        """One per person."""
        return len(unit.identities)

    @torch.inference_mode()
    def portraits(self, unit: Batch, worker: Worker = ONLY_WORKER) -> list[Portrait | Skip]:
        """The frames of a batch of people, with skips for those that cannot be used."""
        head = self.head(worker)
        results: list[Portrait | Skip] = []
        latents = []
        for identity in unit.identities:
            try:
                latents.append((identity, head.latents([identity])[0]))
            except InputError as error:
                results.append(Skip(self._name_of(identity), str(error)))
        if not latents:
            return results
        people = head.draw(np.stack([z for _, z in latents]))
        places = [self._locate(head, people, index) for index in range(len(latents))]
        cameras = {identity: self.cameras(identity) for identity, _ in latents}
        world = np.stack(
            [
                in_world(cameras[identity], None if isinstance(place, str) else place)
                for (identity, _), place in zip(latents, places, strict=True)
            ]
        )
        views = head.each_view(people, torch.from_numpy(world).to(head.device), self.size)
        for index, ((identity, _), place) in enumerate(zip(latents, places, strict=True)):
            if isinstance(place, str):
                results.append(Skip(self._name_of(identity), place))
                continue
            renders = as_renders(views, self.size, index)
            has_background = head.generator.bcg_synthesis is not None
            meta = self._meta(unit.split, identity)
            masks = renders.masks if has_background else ()
            results.append(Portrait.of(meta, renders.images, cameras[identity], masks))
        return results

    def cameras(self, identity: int) -> NDArray[np.float32]:
        """A person's cameras (K, 25): one near the front, and one in each of K - 1 equal parts of the range
        of yaw."""
        rng = numpy_generator(CAMERA_STREAM, self.seed, identity)
        most_yaw, most_pitch = self.max_yaw, self.max_pitch
        near = min(REFERENCE_YAW, most_yaw)
        targets = self.views - 1
        parts = (np.arange(targets) + rng.random(targets)) / targets
        yaws = np.concatenate([rng.uniform(-near, near, 1), (2 * parts - 1) * most_yaw])
        pitches = np.clip(rng.normal(0, PITCH_SPREAD, self.views), -most_pitch, most_pitch)
        return np.stack([label_from_angles(*np.radians(pair)) for pair in zip(yaws, pitches, strict=True)])

    def _locate(self, head: GeneratedHead, people: Identity, index: int) -> HeadFrame | str | None:
        """The coordinate frame of a person's head, None for the generator's own, or why it cannot be
        measured."""
        if self.frame != "each":
            return head.frame
        person = Identity(
            people.planes[index : index + 1],
            people.style[index : index + 1],
            None if people.background is None else people.background[index : index + 1],
        )
        try:
            return head.frame_of(person, measuring_cameras(head.generator.settings))
        except NoHeadError as error:
            return str(error)

    def _meta(self, split: str, identity: int) -> SampleMeta:
        return SampleMeta(
            source=self.name,
            identity=self._name_of(identity),
            split=split,
            sequence="still",
            instant="0",
            alignment="eg3d",
            licence=self.licence,
            attributes={"truncation": self.truncation},
        )

    def _name_of(self, identity: int) -> str:
        return f"s{self.seed}i{identity:06d}"


class PanoHeadGenerator(_Generated):
    """PanoHead's people with masks, with cameras that look at EG3D's pivot."""

    kind = "panohead"


class EG3DGenerator(_Generated):
    """EG3D's people."""

    kind = "eg3d"
