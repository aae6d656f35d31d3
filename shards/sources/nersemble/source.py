"""`python -m shards.build nersemble`: NeRSemble in any of its layouts → frames of calibrated portraits."""

import json
import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from generators.registry import RendererChoice, check_renderer, renderer_record
from portraits.alignment.detection import FaceDetector, choose
from portraits.alignment.head import HeadFrame, NoHeadError, locate_head
from portraits.alignment.virtual import virtual_view
from shards.conditions import RenderedConditions
from shards.schema import Sample, SampleMeta
from shards.skips import Skip
from shards.sources.nersemble.calibration import CalibrationError, PinholeCamera, load_cameras
from shards.sources.nersemble.colour import ColourError, corrected, load_correction
from shards.sources.nersemble.footage import Picture, open_footage, videos
from shards.sources.nersemble.layouts import Take, find_takes, single_views
from shards.sources.nersemble.picking import Pick, instants_at, pick_frames
from shards.sources.splits import Shares

log = logging.getLogger(__name__)

LICENCE = "NeRSemble-terms-of-use"
BACKGROUNDS = {"white": 255, "black": 0}
LEAST = {"frames": 1, "size": 16, "min_views": 2, "val_frames": 0, "test_frames": 0, "seed": 0}


class NersembleCapture(RenderedConditions):
    """Frames of NeRSemble, of up to sixteen views, cut out by virtual cameras that look at the head.

    At the recordings' full resolution each process takes 2.2 GB of memory."""

    name = "nersemble"
    _detector = FaceDetector()

    def __init__(
        self,
        root: str,
        frames: int = 2000,
        size: int = 512,
        val_frames: int = 64,
        test_frames: int = 200,
        val_share: float = 0.05,
        test_share: float = 0.05,
        seed: int = 0,
        layout: str | None = None,
        colour: bool = True,
        background: Literal["keep", "white", "black"] = "keep",
        conditions: RendererChoice = "synthetic",
        min_views: int = 9,
    ) -> None:
        """
        Args:
            root: the download's folder
            frames: how many frames for training
            size: image side in pixels
            val_frames: how many for validation
            test_frames: how many for testing
            val_share: the share of participants kept for validation
            test_share: the share kept for testing, beside the participants of the public benchmarks
            seed: of the choice of frames
            layout: benchmark, v2, v1, paper or vhap; recognised if not given
            colour: whether to correct colours where corrections are there
            background: keep it, or replace it where there are mattes; frames without one are then skipped
            conditions: the renderer of the condition images: synthetic, eg3d:FOLDER, panohead:FOLDER, or
                a GAN's options
            min_views: frames with fewer views are skipped
        """
        settings = {name: value for name, value in locals().items() if name != "self"}
        for option, least in LEAST.items():
            if settings[option] < least:
                raise InputError(f"--{option} {settings[option]}: give {least} or more")
        shares = Shares(val_share, test_share)
        shares.check()
        check_renderer(conditions)
        settings["conditions"] = renderer_record(conditions)
        self.size, self.colour, self.background = size, colour, background
        self.conditions, self.min_views = conditions, min_views
        self.layout, takes = _usable_takes(Path(root), layout, min_views)
        wanted = {"train": frames, "val": val_frames, "test": test_frames}
        self._picks = pick_frames(takes, wanted, shares, seed)
        log.info("%s: NeRSemble, layout %s: %s", root, self.layout, _counts(takes, self._picks))
        self.settings: dict[str, Any] = settings | {"layout": self.layout, "picked": _digest(self._picks)}

    def units(self) -> Sequence[Pick]:
        """The takes that frames are picked from."""
        return self._picks

    def frames(self, unit: Pick) -> int:
        """How many frames are picked of a take."""
        return len(unit.places)

    def capture(self, unit: Pick) -> list[Sample | Skip]:
        """Read a take once and cut out its frames; what cannot be used is named."""
        take = unit.take
        try:
            cameras = _calibrated(take)
        except CalibrationError as error:
            return [Skip(take.name, str(error), len(unit.places))]
        footage = open_footage(take)
        instants = instants_at(unit.places, footage.instants)
        results: list[Sample | Skip] = []
        for instant, pictures in footage.read(instants):
            try:
                results.append(self._sample(unit, instant, pictures, cameras))
            except (NoHeadError, _UnusableError, CalibrationError, ColourError) as error:
                results.append(Skip(f"{take.name} frame {instant}", str(error)))
        if missing := len(unit.places) - len(results):
            reason = (
                "the sequence is too short" if footage.instants else "nothing of the sequence can be read"
            )
            results.append(Skip(take.name, reason, missing))
        results += [Skip(f"{take.name} camera {name}", trouble, 0) for name, trouble in footage.troubles]
        absent = sorted(set(cameras) - _recorded(results) - {name for name, _ in footage.troubles})
        if absent and any(isinstance(result, Sample) for result in results):
            results += [Skip(f"{take.name} camera {name}", "it did not record", 0) for name in absent]
        return results

    def _sample(
        self, unit: Pick, instant: int, pictures: Mapping[str, Picture], cameras: Mapping[str, PinholeCamera]
    ) -> Sample:
        names = [name for name in cameras if name in pictures]
        if len(names) < self.min_views:
            raise _UnusableError(f"fewer than {self.min_views} cameras recorded it")
        scaled = {name: cameras[name].at(*pictures[name].image.shape[1::-1]) for name in names}
        head = self._head({name: pictures[name] for name in names}, scaled)
        cuts = [self._cut(unit.take, name, pictures[name], scaled[name], head) for name in names]
        mattes = [cut.matte for cut in cuts if cut.matte is not None]
        cameras_seen = np.stack([cut.camera for cut in cuts])
        meta = SampleMeta(
            source=self.name,
            identity=unit.take.participant,
            split=unit.split,
            sequence=unit.take.sequence,
            instant=f"{instant:05d}",
            alignment="eg3d",
            licence=LICENCE,
            attributes={"cameras": names, "views_of_head": head.views, "head_misfit": round(head.misfit, 4)},
        )
        return Sample(
            meta=meta,
            views=np.stack([cut.image for cut in cuts]),
            conditions=self.condition_images(meta.key, cameras_seen, self.size),
            cameras=cameras_seen,
            masks=np.stack(mattes) if len(mattes) == len(cuts) else None,
        )

    def _head(self, pictures: Mapping[str, Picture], cameras: Mapping[str, PinholeCamera]) -> HeadFrame:
        faces = {
            name: choose(self._detector.faces(Image.fromarray(picture.image)))
            for name, picture in pictures.items()
        }
        landmarks = {name: face.landmarks for name, face in faces.items() if face is not None}
        return locate_head({name: cameras[name].projection for name in landmarks}, landmarks)

    def _cut(self, take: Take, name: str, picture: Picture, camera: PinholeCamera, head: HeadFrame) -> "_Cut":
        view = virtual_view(camera.pose, camera.intrinsics, head)
        image = view.cut(picture.image, self.size)
        matte = None if picture.matte is None else view.cut(picture.matte, self.size)
        if self.colour and take.colour is not None:
            image = corrected(image, load_correction(take.colour, name))
        if self.background != "keep":
            if matte is None:
                raise _UnusableError("there is no matte to remove the background by")
            alpha = matte[..., None] / 255.0
            blended = image * alpha + BACKGROUNDS[self.background] * (1 - alpha)
            image = np.round(blended).astype(np.uint8)
        return _Cut(image, matte, view.camera)


class _Cut(NamedTuple):
    """A crop (S, S, 3), its matte (S, S) and label (25,)."""

    image: NDArray[np.uint8]
    matte: NDArray[np.uint8] | None
    camera: NDArray[np.float32]


class _UnusableError(ValueError):
    """A frame cannot be used."""


def _usable_takes(root: Path, layout: str | None, min_views: int) -> tuple[str, list[Take]]:
    """The layout and its takes; of the benchmark those that are meant to have enough cameras. What is left
    out is logged. Raises InputError where nothing is left."""
    layout, takes = find_takes(root, layout)
    if layout != "benchmark":
        return layout, takes
    usable = [take for take in takes if len(videos(take.folder)) >= min_views]
    if not usable:
        raise InputError(f"--root {root}: no sequence has --min_views {min_views} cameras; try fewer")
    if few := len(takes) - len(usable):
        log.info("%s: %d sequences of fewer than --min_views %d cameras are left out", root, few, min_views)
    if (singles := single_views(root)) is not None:
        log.info("%s: single views without calibration: python -m shards.build wild reads them", singles)
    return layout, usable


def _counts(takes: Sequence[Take], picks: Sequence[Pick]) -> str:
    people = {take.participant for take in takes}
    frames = sum(len(pick.places) for pick in picks)
    found = f"{len(people)} participants, {len(takes)} sequences"
    return f"{found}; {frames} frames of {len(picks)} sequences are taken"


def _calibrated(take: Take) -> dict[str, PinholeCamera]:
    if take.calibration is None:
        raise CalibrationError("the participant has no camera_params.json")
    return load_cameras(take.calibration)


def _recorded(results: Sequence[Sample | Skip]) -> set[str]:
    samples = [result for result in results if isinstance(result, Sample)]
    return {name for sample in samples for name in sample.meta.attributes["cameras"]}


def _digest(picks: Sequence[Pick]) -> str:
    """Changes when other frames are picked: what is on disk is part of what a build depends on."""
    values = [[pick.take.name, pick.split, pick.places] for pick in picks]
    return sha256(json.dumps(values).encode()).hexdigest()[:16]
