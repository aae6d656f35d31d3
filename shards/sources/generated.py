"""`python -m shards.build panohead --generator DIR`, `… eg3d --generator DIR`: people of a 3D GAN → frames.

Half of the paper's training data are such samples (4.1): each person seen by one reference and eight targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import InputError
from core.fingerprints import of_folder
from generators.gan.architecture import Kind
from generators.gan.cameras import in_world, measuring_cameras, outside_range, warn_of_range
from generators.gan.generator import Identity
from generators.gan.options import GeneratorOptions, Precision
from generators.gan.renderer import GeneratedHead, as_renders, check_device, gpu_processes
from generators.registry import RendererChoice, check_renderer, renderer_record
from portraits.alignment.head import HeadFrame, NoHeadError
from portraits.cameras import label_from_angles
from shards.conditions import RenderedConditions
from shards.schema import SPLITS, Sample, SampleMeta
from shards.skips import Skip
from shards.sources.splits import Shares, split_by_hash

# Where an identity's head is measured to stand: on itself, on the average person, or nowhere.
Frames = Literal["each", "average", "own"]
CAMERAS = 1  # a random stream apart from those of latents
REFERENCE_YAW = 20.0  # degrees: the first view is this near the front
PITCH_SPREAD = 8.0  # degrees


@dataclass(frozen=True)
class Batch:
    """One unit of work: numbers of people of one split, drawn and rendered together."""

    split: str
    identities: tuple[int, ...]


@dataclass(eq=False)
class _Generated(RenderedConditions):
    """Frames of people who do not exist, at exact cameras in the shared convention.

    Args:
        generator: the generator's folder, as import-gan writes it
        identities: people in all, over the three splits
        views: cameras a person: a reference near the front, and targets
        size: image side in pixels
        seed: which people; the capture is a function of this and the other settings
        truncation: 1 is the generator's whole variety, 0 one average person
        max_yaw: targets lie within this many degrees of the front; 180 is all round
        max_pitch: and within this many above and below
        frame: where heads stand: measured on each person (panohead), on the average one, or the generator's
            own frame taken as it is (eg3d)
        faces: people in whom no face is found are replaced by others
        resolution: side of the volume rendering, 0 for the checkpoint's
        precision: of the convolutions
        compile: convolutions and decoder are compiled first
        batch: people computed together; more for a GPU
        device: such as cpu or cuda:1; by default the GPUs in turn, a process each, where there are any
        val_share: the share of identities kept for validation
        test_share: the share kept for testing
        conditions: the renderer of the condition images: synthetic, eg3d:FOLDER, panohead:FOLDER, or
            a GAN's options
        licence: under which terms the images may be used
    """

    kind: ClassVar[Kind]
    name: str = field(init=False)
    settings: dict[str, Any] = field(init=False)

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
    conditions: RendererChoice = "synthetic"
    licence: str = "generated"

    def __post_init__(self) -> None:
        self.name, self.frame = self.kind, self.frame or ("each" if self.kind == "panohead" else "own")
        for option, least in (("identities", 1), ("views", 2), ("size", 16), ("batch", 1)):
            if (value := getattr(self, option)) < least:
                raise InputError(f"--{option} {value}: give {least} or more")
        if not (0 < self.max_yaw <= 180 and 0 < self.max_pitch < 90):
            raise InputError(
                f"--max_yaw {self.max_yaw:g} --max_pitch {self.max_pitch:g}: up to 180 and under 90 degrees"
            )
        self.options.check(self.kind)
        check_device(self.device)
        check_renderer(self.conditions)
        self.shares.check()
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        del own["device"]  # images are the same on another, but for the last bit
        own["conditions"] = renderer_record(self.conditions)
        self.settings = own | {"fingerprint": of_folder(Path(self.generator))}

    @property
    def options(self) -> GeneratorOptions:
        """Who is drawn from the generator how."""
        shared = ("truncation", "seed", "faces", "resolution", "precision", "compile")
        return GeneratorOptions(
            self.generator,
            frame="measured" if self.frame == "average" else "own",
            **{name: getattr(self, name) for name in shared},
        )

    @property
    def shares(self) -> Shares:
        """Of the splits."""
        return Shares(self.val_share, self.test_share)

    @property
    def processes(self) -> int | None:
        """As many as suit the generator, whoever draws the conditions."""
        return gpu_processes(self.device)

    def units(self) -> Sequence[Batch]:
        """People of one split at a time, `batch` of them. Angles that the generator was not trained on are
        warned of."""
        furthest = label_from_angles(*np.radians((self.max_yaw, self.max_pitch)))
        if outside_range(furthest[None], self.kind).any():
            warn_of_range(f"--max_yaw {self.max_yaw:g} --max_pitch {self.max_pitch:g} reach", self.kind)
        by_split: dict[str, list[int]] = {split: [] for split in SPLITS}
        for identity in range(self.identities):
            by_split[split_by_hash(f"{self.kind} {self._named(identity)}", self.shares)].append(identity)
        return [
            Batch(split, tuple(people[start : start + self.batch]))
            for split, people in by_split.items()
            for start in range(0, len(people), self.batch)
        ]

    def frames(self, unit: Batch) -> int:
        """One a person."""
        return len(unit.identities)

    @torch.inference_mode()
    def capture(self, unit: Batch) -> list[Sample | Skip]:
        """The frames of a batch of people, or why there is none of somebody."""
        results: list[Sample | Skip] = []
        latents = []
        for identity in unit.identities:
            try:
                latents.append((identity, self._head.latents([identity])[0]))
            except InputError as error:
                results.append(Skip(self._named(identity), str(error)))
        if not latents:
            return results
        people = self._head.draw(np.stack([z for _, z in latents]))
        located = [self._located(people, index) for index in range(len(latents))]
        cameras = {identity: self.cameras(identity) for identity, _ in latents}
        world = np.stack(
            [
                in_world(cameras[identity], None if isinstance(place, str) else place)
                for (identity, _), place in zip(latents, located, strict=True)
            ]
        )
        views = self._head.each_view(people, torch.from_numpy(world).to(self._head.device), self.size)
        for index, ((identity, _), place) in enumerate(zip(latents, located, strict=True)):
            if isinstance(place, str):
                results.append(Skip(self._named(identity), place))
                continue
            renders = as_renders(views, self.size, index)
            results.append(
                self._sample(unit.split, identity, cameras[identity], renders.images, renders.masks)
            )
        return results

    def cameras(self, identity: int) -> NDArray[np.float32]:
        """A person's cameras (K, 25): one near the front, the others over the whole range of yaw, one in each
        of as many equal parts of it."""
        rng = np.random.default_rng([CAMERAS, self.seed, identity])
        most_yaw, most_pitch = self.max_yaw, self.max_pitch
        near = min(REFERENCE_YAW, most_yaw)
        targets = self.views - 1
        parts = (np.arange(targets) + rng.random(targets)) / targets
        yaws = np.concatenate([rng.uniform(-near, near, 1), (2 * parts - 1) * most_yaw])
        pitches = np.clip(rng.normal(0, PITCH_SPREAD, self.views), -most_pitch, most_pitch)
        return np.stack([label_from_angles(*np.radians(pair)) for pair in zip(yaws, pitches, strict=True)])

    def _located(self, people: Identity, index: int) -> HeadFrame | str | None:
        """Where the head of one of the people stands, None for the shared frame, or why nobody knows."""
        if self.frame != "each":
            return self._head.frame
        one = Identity(
            people.planes[index : index + 1],
            people.style[index : index + 1],
            None if people.background is None else people.background[index : index + 1],
        )
        try:
            return self._head.frame_of(one, measuring_cameras(self._head.generator.settings))
        except NoHeadError as error:
            return str(error)

    def _sample(
        self,
        split: str,
        identity: int,
        cameras: NDArray[np.float32],
        images: NDArray[np.uint8],
        masks: NDArray[np.uint8],
    ) -> Sample:
        meta = SampleMeta(
            source=self.name,
            identity=self._named(identity),
            split=split,
            sequence="still",
            instant="0",
            alignment="eg3d",
            licence=self.licence,
            attributes={"truncation": self.truncation},
        )
        return Sample(
            meta=meta,
            views=images,
            conditions=self.condition_images(meta.key, cameras, self.size),
            cameras=cameras,
            masks=masks if self._head.generator.bcg_synthesis is not None else None,
        )

    def _named(self, identity: int) -> str:
        return f"s{self.seed}i{identity:06d}"

    @cached_property
    def _head(self) -> GeneratedHead:
        return GeneratedHead(self.options, self.device)


class PanoHeadGenerator(_Generated):
    """PanoHead's people, turned to EG3D's pivot, with masks."""

    kind = "panohead"


class EG3DGenerator(_Generated):
    """EG3D's people."""

    kind = "eg3d"
