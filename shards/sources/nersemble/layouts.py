"""NeRSemble's layouts on disk, and the takes found in them: one sequence of one participant each.

The releases and tools store the same recordings in different layouts; a `Take` holds the paths, independent
of the layout. No video is opened and no frame is listed here.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError

PARTICIPANT = re.compile(r"\d{1,4}")
SEQUENCE = re.compile(r"[A-Za-z0-9_+=@]+(-[A-Za-z0-9_+=@]+)*")
PART = re.compile(r"sequence_.+_part-\d+")
VIDEO = re.compile(r"cam_(\d+)\.mp4")
STILL = re.compile(r"cam_(\d+)\.(?:png|jpg)")
NUMBERED = re.compile(r"cam_(\d+)_(\d+)\.(?:png|jpg)")
MOMENT = re.compile(r"frame_(\d+)")
EXTRACTED = ("images", "images_2", "images_4")
BENCHMARKS = ("nvs", "mono_flame_avatar")
SINGLE_VIEWS = "svfr"  # the benchmark's folder of single images, which have no calibration
PAPER_IMAGES, PAPER_MATTES = "images-2x-73fps", "alpha_map-73fps"
NOT_A_PERFORMANCE = "BACKGROUND"


@dataclass(frozen=True)
class Take:
    """One sequence of one participant.

    `kind` is how its frames are stored: "videos" (an MP4 per camera in `folder`), "moments" (a folder per
    frame) or "numbered" (the images of all frames in `folder`). `mattes` is the folder of foreground mattes,
    `colour` the file or folder of colour corrections.
    """

    participant: str
    sequence: str
    kind: str
    folder: Path
    calibration: Path | None = None
    colour: Path | None = None
    mattes: Path | None = None

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"{self.participant}/{self.sequence}"


def find_takes(root: Path, layout: str | None = None) -> tuple[str, list[Take]]:
    """The layout of `root`, detected unless given, and its takes in order. Raises InputError if there are
    none."""
    if not root.is_dir():
        raise InputError(f"--root {root}: there is no such folder")
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"--layout {layout}: choose one of {', '.join(LAYOUTS)}")
    for name in LAYOUTS if layout is None else [layout]:
        takes = sorted(LAYOUTS[name](root), key=lambda take: (take.participant, take.sequence))
        if takes:
            return name, takes
    if (singles := find_single_views(root)) is not None:
        raise InputError(
            f"--root {root}: {SINGLE_VIEWS} holds single views without calibration; read them as portraits:"
            f" python -m shards.build wild --root {singles}"
        )
    raise InputError(
        f"--root {root}: no NeRSemble recordings in any known layout ({', '.join(LAYOUTS)}); the root is the"
        " folder that holds the participants' folders, or sequence_*_part-* and camera_params"
    )


def find_single_views(root: Path) -> Path | None:
    """The folder of the benchmark's single images, if there is one."""
    people = _participants(root / SINGLE_VIEWS)
    return (
        root / SINGLE_VIEWS
        if any((view / "rgb.png").is_file() for p in people for view in p.iterdir())
        else None
    )


def _benchmark(root: Path) -> Iterator[Take]:
    for name in BENCHMARKS:
        if (root / name).is_dir():
            yield from _v2(root / name)


def _v2(root: Path) -> Iterator[Take]:
    for person in _participants(root):
        for sequence in _sequences(person / "sequences"):
            if _holds(sequence / "images", VIDEO):
                mattes = sequence / "alpha_maps" if _holds(sequence / "alpha_maps", VIDEO) else None
                yield _take(root, person, sequence, "videos", sequence / "images", mattes)


def _v1(root: Path) -> Iterator[Take]:
    for part in _folders(root, PART):
        for person in _participants(part):
            for sequence in _sequences(person):
                if _holds(sequence, VIDEO):
                    yield _take(root, person, sequence, "videos", sequence)


def _paper(root: Path) -> Iterator[Take]:
    for person in _participants(root):
        for sequence in _sequences(person / "sequences"):
            if any((sequence / name / PAPER_IMAGES).is_dir() for name in _names(sequence, MOMENT)):
                yield _take(root, person, sequence, "moments", sequence)


def _vhap(root: Path) -> Iterator[Take]:
    for person in _participants(root):
        yield from _extracted(root, person)
    yield from _extracted_alone(root)


def _extracted(root: Path, person: Path) -> Iterator[Take]:
    for sequence, images in _extractions(person):
        yield _take(root, person, sequence, "numbered", images, _folder(sequence / "alpha_maps"))


def _extracted_alone(root: Path) -> Iterator[Take]:
    """The sequences of one participant; the root is the participant's folder or its subfolder `sequences`."""
    here = Path(os.path.abspath(root))
    person = here.parent if here.name == "sequences" else here
    if next(_extractions(person), None) is None:
        return
    if not PARTICIPANT.fullmatch(person.name):
        raise InputError(
            f"--root {root}: sequences extracted by VHAP of an unknown participant: name the folder that"
            " holds them by the participant's number, e.g. 074"
        )
    yield from _extracted(person.parent, person)


def _extractions(person: Path) -> Iterator[tuple[Path, Path]]:
    """(sequence, folder of images) for each of a participant's sequences that has extracted images."""
    for sequence in _sequences(_folder(person / "sequences") or person):
        images = next((sequence / name for name in EXTRACTED if _holds(sequence / name, NUMBERED)), None)
        if images is not None:
            yield sequence, images


LAYOUTS: dict[str, Callable[[Path], Iterator[Take]]] = {
    "benchmark": _benchmark,
    "v2": _v2,
    "v1": _v1,
    "paper": _paper,
    "vhap": _vhap,
}


def _take(
    root: Path, person: Path, sequence: Path, kind: str, folder: Path, mattes: Path | None = None
) -> Take:
    calibrations = [
        person / "calibration" / "camera_params.json",
        person / "camera_params.json",
        root / "camera_params" / person.name / "camera_params.json",
    ]
    colours = [
        person / "calibration" / "color_calibration.json",
        person / "annotations" / sequence.name / "color_correction",
        root / "color_correction" / person.name,
    ]
    calibration = next((path for path in calibrations if path.is_file()), None)
    colour = next((path for path in colours if path.exists()), None)
    return Take(f"{int(person.name):03d}", sequence.name, kind, folder, calibration, colour, mattes)


def _participants(root: Path) -> list[Path]:
    return _folders(root, PARTICIPANT)


def _sequences(folder: Path) -> list[Path]:
    return [path for path in _folders(folder, SEQUENCE) if path.name != NOT_A_PERFORMANCE]


def _folders(parent: Path, pattern: re.Pattern[str]) -> list[Path]:
    return sorted(path for path in (parent / name for name in _names(parent, pattern)) if path.is_dir())


def _folder(path: Path) -> Path | None:
    return path if path.is_dir() else None


def _holds(folder: Path, pattern: re.Pattern[str]) -> bool:
    return next(_names(folder, pattern), None) is not None


def _names(folder: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    """Iterate over the matching names in a folder: a take may have a hundred thousand files."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if pattern.fullmatch(entry.name))
