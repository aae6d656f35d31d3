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
from core.workers import ONLY_WORKER, Worker
from generators.registry import BAKED, RendererChoice, check_renderer, renderer_record
from portraits.alignment.detection import FaceDetector, choose
from portraits.alignment.head import HeadFrame, NoHeadError, locate_head
from portraits.alignment.virtual import virtual_view
from portraits.pixels import Images, check_side
from shards.conditions import CONDITION_FRAMES, Portrait, RenderedConditions, in_units
from shards.schema import SampleMeta
from shards.skips import Skip
from shards.sources.nersemble.calibration import (
    Calibration,
    CalibrationError,
    PinholeCamera,
    load_calibration,
)
from shards.sources.nersemble.colour import ColourError, correct, load_correction
from shards.sources.nersemble.footage import Picture, list_videos, open_footage
from shards.sources.nersemble.layouts import Take, find_single_views, find_takes
from shards.sources.nersemble.picking import Pick, instants_at, pick_frames
from shards.sources.splits import Shares

log = logging.getLogger(__name__)

LICENCE = "NeRSemble-terms-of-use"
BACKGROUNDS = {"white": 255, "black": 0}
LEAST = {
    "frames": 1,
    "min_views": 2,
    "val_frames": 0,
    "test_frames": 0,
    "seed": 0,
    "condition_frames": 1,
}


class NersembleCapture(RenderedConditions):
    """Frames of NeRSemble with up to sixteen views, cropped by virtual cameras that look at the head.

    At the recordings' full resolution each process needs 2.2 GB of memory, and the frames of a unit.
    """

    name = "nersemble"
    # EG3D crops by MTCNN's points; triangulated over the views of a frame, they are more accurate than dense
    # ones
    _detector = FaceDetector(dense=False)

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
        conditions: RendererChoice = BAKED,
        min_views: int = 9,
        condition_frames: int = CONDITION_FRAMES,
    ) -> None:
        """
        Args:
            root: the folder of the download
            frames: number of training frames
            size: image side in pixels
            val_frames: number of validation frames
            test_frames: number of test frames
            val_share: the share of participants held out for validation
            test_share: the share held out for testing, in addition to the participants of public benchmarks
            seed: seed of the choice of frames
            layout: benchmark, v2, v1, paper or vhap; detected by default
            colour: apply the colour corrections, if there are any
            background: keep it, or replace it by white or black; frames without mattes are then skipped
            conditions: the renderer of the condition images: baked, studio, synthetic, eg3d:FOLDER,
                panohead:FOLDER, or a GAN's options
            min_views: frames with fewer views are skipped
            condition_frames: frames in a row whose conditions show the same people, a person for each view;
                the more, the less a condition costs
        """
        settings = {name: value for name, value in locals().items() if name != "self"}
        check_side(size, "--size")
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
        self._units = in_units(
            self._picks, lambda pick: len(pick.places), lambda pick: pick.split, condition_frames
        )
        log.info("%s: NeRSemble, layout %s: %s", root, self.layout, _counts(takes, self._picks))
        for split in ("val", "test"):
            if wanted[split] and not any(pick.split == split for pick in self._picks):
                log.warning(
                    "--%s_frames %d: no participant is held out for %s, so there will be none; raise"
                    " --%s_share (participants are assigned by a hash of their number)",
                    *(split, wanted[split], split, split),
                )
        self.settings: dict[str, Any] = settings | {"layout": self.layout, "picked": _digest(self._picks)}

    def units(self) -> Sequence[tuple[Pick, ...]]:
        """The takes that frames are selected from, in groups whose conditions show the same people."""
        return self._units

    def frames(self, unit: tuple[Pick, ...]) -> int:
        """The number of frames selected from the takes of a unit."""
        return sum(len(pick.places) for pick in unit)

    def portraits(self, unit: tuple[Pick, ...], worker: Worker = ONLY_WORKER) -> list[Portrait | Skip]:  # noqa: ARG002
        """The frames selected from the takes of a unit, with skips for what cannot be used."""
        return [result for pick in unit for result in self._read(pick)]

    def _read(self, pick: Pick) -> list[Portrait | Skip]:
        """The frames selected from a take, which is read once."""
        take = pick.take
        try:
            calibration = _calibration(take)
        except CalibrationError as error:
            return [Skip(take.name, str(error), len(pick.places))]
        footage = open_footage(take)
        recorded: set[str] = set()
        results: list[Portrait | Skip] = []
        for instant, pictures in footage.read(instants_at(pick.places, footage.instants)):
            recorded.update(pictures)
            try:
                results.append(self._frame(pick, instant, pictures, calibration.cameras))
            except (NoHeadError, _UnusableError, CalibrationError, ColourError) as error:
                results.append(Skip(f"{take.name} frame {instant}", str(error)))
        if missing := len(pick.places) - len(results):
            reason = (
                "the sequence is too short" if footage.instants else "nothing of the sequence can be read"
            )
            results.append(Skip(take.name, reason, missing))
        faults = _camera_faults(results, recorded, calibration, footage.faults)
        return results + [Skip(f"{take.name} camera {name}", reason, 0) for name, reason in faults]

    def _frame(
        self,
        pick: Pick,
        instant: int,
        pictures: Mapping[str, Picture],
        cameras: Mapping[str, PinholeCamera],
    ) -> Portrait:
        names = [name for name in cameras if name in pictures]
        if len(names) < self.min_views:
            raise _UnusableError(f"fewer than {self.min_views} calibrated cameras recorded it")
        scaled = {name: cameras[name].at(*pictures[name].image.shape[1::-1]) for name in names}
        head = self._locate_head({name: pictures[name] for name in names}, scaled)
        crops = [self._crop(pick.take, name, pictures[name], scaled[name], head) for name in names]
        images, mattes, labels = zip(*crops, strict=True)
        meta = SampleMeta(
            source=self.name,
            identity=pick.take.participant,
            split=pick.split,
            sequence=pick.take.sequence,
            instant=f"{instant:05d}",
            alignment="eg3d",
            licence=LICENCE,
            attributes={"cameras": names, "views_of_head": head.views, "head_misfit": round(head.misfit, 4)},
        )
        return Portrait.of(meta, images, labels, mattes)

    def _locate_head(
        self, pictures: Mapping[str, Picture], cameras: Mapping[str, PinholeCamera]
    ) -> HeadFrame:
        """The head's coordinate frame in the world of the cameras. Raises NoHeadError."""
        faces = {
            name: choose(self._detector.faces(Image.fromarray(picture.image)))
            for name, picture in pictures.items()
        }
        landmarks = {name: face.landmarks for name, face in faces.items() if face is not None}
        return locate_head({name: cameras[name].projection for name in landmarks}, landmarks)

    def _crop(
        self, take: Take, name: str, picture: Picture, camera: PinholeCamera, head: HeadFrame
    ) -> "_Crop":
        view = virtual_view(camera.pose, camera.intrinsics, head)
        image = view.cut(picture.image, self.size)
        matte = None if picture.matte is None else view.cut(picture.matte, self.size)
        if self.colour and take.colour is not None:
            image = correct(image, load_correction(take.colour, name))
        if self.background != "keep":
            if matte is None:
                raise _UnusableError("there is no matte to remove the background with")
            alpha = matte[..., None] / 255.0
            blended = image * alpha + BACKGROUNDS[self.background] * (1 - alpha)
            image = np.round(blended).astype(np.uint8)
        return _Crop(image, matte, view.camera)


class _Crop(NamedTuple):
    """A crop (S, S, 3), its matte (S, S) and its label (25,)."""

    image: Images
    matte: NDArray[np.uint8] | None
    camera: NDArray[np.float32]


class _UnusableError(ValueError):
    """A frame cannot be used."""


def _usable_takes(root: Path, layout: str | None, min_views: int) -> tuple[str, list[Take]]:
    """The layout and its takes; of the benchmark only those with at least `min_views` cameras.

    Sequences that are left out are logged. Raises InputError if none is left."""
    layout, takes = find_takes(root, layout)
    if layout != "benchmark":
        return layout, takes
    usable = [take for take in takes if len(list_videos(take.folder)) >= min_views]
    if not usable:
        raise InputError(f"--root {root}: no sequence has --min_views {min_views} cameras; try fewer")
    if few := len(takes) - len(usable):
        log.info("%s: %d sequences of fewer than --min_views %d cameras are left out", root, few, min_views)
    if (singles := find_single_views(root)) is not None:
        log.info("%s: single views without calibration: python -m shards.build wild reads them", singles)
    return layout, usable


def _counts(takes: Sequence[Take], picks: Sequence[Pick]) -> str:
    people = {take.participant for take in takes}
    frames = sum(len(pick.places) for pick in picks)
    found = f"{len(people)} participants, {len(takes)} sequences"
    return f"{found}; {frames} frames are picked from {len(picks)} sequences"


def _calibration(take: Take) -> Calibration:
    if take.calibration is None:
        raise CalibrationError("the participant has no camera_params.json")
    return load_calibration(take.calibration)


def _camera_faults(
    results: Sequence[Portrait | Skip],
    recorded: set[str],
    calibration: Calibration,
    faults: Sequence[tuple[str, str]],
) -> list[tuple[str, str]]:
    """(camera, reason) for each camera that is missing from a take's frames: the `faults` of its footage,
    cameras that recorded nothing, and recordings without a usable calibration."""
    frames = [result for result in results if isinstance(result, Portrait)]
    used = {name for frame in frames for name in frame.meta.attributes["cameras"]}
    silent = sorted(set(calibration.cameras) - used - {name for name, _ in faults}) if frames else []
    uncalibrated = sorted((recorded | set(calibration.faults)) - set(calibration.cameras))
    missing = "camera_params.json does not list it"
    return [
        *faults,
        *((name, "it did not record") for name in silent),
        *((name, f"no calibration: {calibration.faults.get(name, missing)}") for name in uncalibrated),
    ]


def _digest(picks: Sequence[Pick]) -> str:
    """A digest of the selected frames, which depend on the files on disk."""
    values = [[pick.take.name, pick.split, pick.places] for pick in picks]
    return sha256(json.dumps(values).encode()).hexdigest()[:16]
