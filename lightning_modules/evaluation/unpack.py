"""Conversion of another system's results to a folder of predictions.

`python -m lightning_modules.evaluation.unpack KIND SOURCE OUT` reads the results of a system and writes the
folder that `lightning_modules.evaluate --predictions` scores.

| KIND | SOURCE holds |
|---|---|
| diffportrait3d | `<id>.mp4` of the released script, a frame for each image of `--conditions DIR` |
| goae | `<id>/video.mp4`, along the orbit of EG3D's videos; `<id>/rec_img.jpg`, the reconstruction |
| eg3d | `<id>.mp4` of EG3D-projector and PTI, along the same orbit |
| panohead | `<id>.mp4` at the cameras of `--cameras` |
| triplanenet | `<id>_<yaw in radians>.png`; `<id>_same-view.png`, the reconstruction of `<id>_original.png` |
| zero123 | `<id>/<polar>_<azimuth>.png`, in degrees from a frontal portrait, azimuth to the camera's right |

All subjects need the same views; otherwise the results are refused as incomplete. By default new views are
read; `--protocol reconstruction` or `wild` reads reconstructions, whose truth is the portrait.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from core.errors import InputError, one_line
from core.files import whole_folder
from core.lists import shortened
from lightning_modules.sampling.trajectories import trajectory
from portraits.alignment.photos import open_photo
from portraits.camera_files import read_cameras
from portraits.cameras import label_from_angles
from portraits.image_folders import check_count, image_files, view_files
from portraits.predictions import Predictions, Protocol, View
from portraits.video import check_video

Kind = Literal["diffportrait3d", "goae", "eg3d", "panohead", "triplanenet", "zero123"]
# degrees: EG3D's gen_videos uses amplitudes of 0.35 rad in yaw and 0.25 in its pitch parameter
EG3D_VIDEO = (20.05, 9.16)
SAME_VIEW, ORIGINAL = "same-view", "original"

_ANGLE = r"-?\d+(?:\.\d+)?"
_TRIPLANENET = re.compile(rf"(?P<name>.+)_(?P<view>{SAME_VIEW}|{ORIGINAL}|{_ANGLE})\.png")
_ZERO123 = re.compile(rf"(?P<polar>{_ANGLE})_(?P<azimuth>{_ANGLE})\.png")


@dataclass(frozen=True)
class Unpacking:
    """Settings of the command.

    Args:
        kind: the system that wrote the results
        source: folder of the results
        out: folder of predictions to write
        protocol: novel_view reads new views; reconstruction, and wild for photos, reads reconstructions
        portraits: folder of the reference portraits, named `<id>` with the suffix of an image
        conditions: folder of condition images, one for each frame of a video
        cameras: files of EG3D labels, one for each frame of a video
        truths: folder of ground-truth views, `<id>/<view>.png`
        system: name in tables; the kind by default
    """

    kind: Kind
    source: str
    out: str
    protocol: Protocol = "novel_view"
    portraits: str | None = None
    conditions: str | None = None
    cameras: list[str] | None = None
    truths: str | None = None
    system: str | None = None


@dataclass(frozen=True)
class Result:
    """One image of a system: its subject, view and pixels, and, if known, its camera (25,), its condition
    image and its input portrait."""

    subject: str
    view: str
    image: Image.Image
    camera: NDArray[np.float32] | None = None
    condition: Path | None = None
    portrait: Path | None = None


def unpack(unpacking: Unpacking) -> Predictions:
    """Write the folder of predictions.

    Raises InputError if the source does not have the kind's layout, if results are incomplete, or if
    portraits or truths do not match its subjects and views.
    """
    source = Path(unpacking.source)
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder")
    reader, portraits = _reader(unpacking), _portraits(unpacking)
    with whole_folder(Path(unpacking.out)) as folder:
        views = [
            _write(folder, result, portraits, unpacking)
            for result in tqdm(reader(source, unpacking), desc="unpacking", unit="view")
        ]
        if not views:
            raise InputError(f"{source}: no file in it is named like a result of {unpacking.kind}")
        _check_complete(views, source)
        _check_portraits(views, portraits, unpacking)
        _check_truths(views, unpacking)
        settings: dict[str, Any] = {"unpacked": unpacking.kind}
        system = unpacking.system or unpacking.kind
        Predictions(folder, system, unpacking.protocol, tuple(views), settings).save()
    return Predictions.load(Path(unpacking.out))


def _reader(unpacking: Unpacking) -> "Reader":
    """The reader of a kind's results for a protocol. Raises InputError if there is none."""
    if unpacking.protocol == "novel_view":
        return READERS[unpacking.kind]
    if unpacking.kind not in RECONSTRUCTIONS:
        raise InputError(
            f"--protocol {unpacking.protocol}: {unpacking.kind} writes new views only; reconstructions are"
            f" written by {', '.join(RECONSTRUCTIONS)}"
        )
    return RECONSTRUCTIONS[unpacking.kind]


def _write(folder: Path, result: Result, portraits: dict[str, Path], unpacking: Unpacking) -> View:
    """Write the files of one result, and return its entry in the manifest."""
    (folder / result.subject).mkdir(exist_ok=True)
    stem = f"{result.subject}/{result.view}"
    result.image.save(folder / f"{stem}.png")
    view = View(result.subject, result.view)
    if result.camera is not None:
        view = replace(view, camera=result.camera.tolist())
    if result.condition is not None:
        open_photo(result.condition).save(folder / f"{stem}.condition.png")
        view = replace(view, condition=f"{stem}.condition.png")
    portrait = portraits.get(result.subject, result.portrait)
    if portrait is not None:
        view = replace(view, reference=f"{result.subject}/reference.png")
        if not (folder / str(view.reference)).exists():
            open_photo(portrait).save(folder / str(view.reference))
    truth = _truth(result, portrait, unpacking)
    if truth is not None:
        open_photo(truth).save(folder / f"{stem}.truth.png")
        view = replace(view, truth=f"{stem}.truth.png")
    return view


def _truth(result: Result, portrait: Path | None, unpacking: Unpacking) -> Path | None:
    """The ground truth of a result. Raises InputError if the portrait of a reconstruction is missing."""
    if unpacking.truths is not None:
        return Path(unpacking.truths) / result.subject / f"{result.view}.png"
    if unpacking.protocol == "novel_view":
        return None
    if portrait is None:
        raise InputError(f"{result.subject}: --portraits DIR has no portrait of this reconstruction")
    return portrait


def _portraits(unpacking: Unpacking) -> dict[str, Path]:
    if unpacking.portraits is None:
        return {}
    found: dict[str, Path] = {}
    for path in view_files(Path(unpacking.portraits), "portraits"):
        if (other := found.setdefault(path.stem, path)) != path:
            raise InputError(f"{other} and {path.name} are both portraits of {path.stem}: remove one of them")
    return found


def _check_complete(views: Sequence[View], source: Path) -> None:
    """Raise InputError unless all subjects have the same views. A subject with fewer frames is incomplete,
    and the cameras of its path would be wrong, as they depend on the number of frames."""
    names: dict[str, set[str]] = {}
    for view in views:
        names.setdefault(view.subject, set()).add(view.view)
    union = set().union(*names.values())
    partial = {subject: own for subject, own in names.items() if own != union}
    if partial:
        counts = shortened([f"{subject} {len(own)}" for subject, own in partial.items()])
        raise InputError(
            f"{source}: {len(partial)} of {len(names)} subjects do not have all {len(union)} views: {counts};"
            " partial results are not scored"
        )


def _check_subjects(source: Path, subjects: Iterable[str], finished: Iterable[str]) -> None:
    """Raise InputError if some of the subjects are finished and others are not."""
    every, done = set(subjects), set(finished)
    missing = sorted(every - done)
    if done and missing:
        raise InputError(
            f"{source}: {len(missing)} of {len(every)} subjects in it have no results:"
            f" {shortened(missing)}; partial results are not scored"
        )


def _folders(source: Path) -> list[str]:
    """The subjects of a kind with one folder per subject."""
    return [path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _check_portraits(views: Sequence[View], portraits: dict[str, Path], unpacking: Unpacking) -> None:
    """Raise InputError if portraits are given that do not match the subjects."""
    subjects = {view.subject for view in views}
    without_portrait = sorted(subjects - portraits.keys())
    without_result = sorted(portraits.keys() - subjects)
    if portraits and without_portrait:
        raise InputError(
            f"{unpacking.portraits}: {len(without_portrait)} subjects of {unpacking.source} have no portrait"
            f" in it: {shortened(without_portrait)}"
        )
    if without_result:
        raise InputError(
            f"{unpacking.source}: {len(without_result)} of {len(portraits)} portraits have no results in it:"
            f" {shortened(without_result)}; partial results are not scored"
        )


def _check_truths(views: Sequence[View], unpacking: Unpacking) -> None:
    """Raise InputError if truths are given for views that are not in the results."""
    if unpacking.truths is None:
        return
    files = Path(unpacking.truths).glob("*/*.png")
    truths = {path.relative_to(unpacking.truths).as_posix() for path in files}
    missing = sorted(truths - {view.image for view in views})
    if missing:
        raise InputError(
            f"{unpacking.source}: {len(missing)} of {len(truths)} truths have no result in it:"
            f" {shortened(missing)}; partial results are not scored"
        )


def _videos(source: Path, pattern: str, name: Callable[[Path], str]) -> list[tuple[str, Path]]:
    """Videos by subject. Raises InputError if there are none."""
    check_video()
    videos = sorted(path for path in source.glob(pattern) if not path.name.startswith("."))
    if not videos:
        raise InputError(f"{source}: there are no {pattern} in it")
    return [(name(path), path) for path in videos]


def frames_of(path: Path) -> list[Image.Image]:
    """The frames of a video, RGB. Raises InputError if it cannot be read."""
    from imageio_ffmpeg import read_frames

    try:
        stream = read_frames(str(path))
        size = next(stream)["size"]
        return [Image.frombytes("RGB", size, frame) for frame in stream]
    except (OSError, RuntimeError, StopIteration, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(f"{path}: cannot be read as a video ({reason[0] if reason else 'empty'})") from error


def _orbit(subject: str, path: Path, unpacking: Unpacking, eg3d_path: bool) -> Iterator[Result]:
    """The frames of a video, at the given cameras or on the path of EG3D's videos."""
    images = frames_of(path)
    given = unpacking.conditions
    conditions = None if given is None else view_files(Path(given), "conditions")
    if conditions is not None:
        check_count(conditions, len(images), "conditions")
    cameras = None
    if unpacking.cameras is not None:
        cameras = read_cameras([Path(file) for file in unpacking.cameras])
        if len(cameras) != len(images):
            raise InputError(f"{path}: {len(images)} frames, and {len(cameras)} cameras are given")
    elif eg3d_path:
        cameras = trajectory("spiral", len(images), *EG3D_VIDEO)
    for number, image in enumerate(images):
        camera = None if cameras is None else cameras[number]
        condition = None if conditions is None else conditions[number]
        yield Result(subject, f"{number:03d}", image, camera, condition)


def _diffportrait3d(source: Path, unpacking: Unpacking) -> Iterator[Result]:
    if unpacking.conditions is None:
        raise InputError("diffportrait3d: give --conditions DIR, the camera images passed to its script")
    for subject, path in _videos(source, "*.mp4", lambda path: path.stem):
        yield from _orbit(subject, path, unpacking, eg3d_path=False)


def _goae(source: Path, unpacking: Unpacking) -> Iterator[Result]:
    videos = _videos(source, "*/video.mp4", lambda path: path.parent.name)
    _check_subjects(source, _folders(source), (subject for subject, _ in videos))
    for subject, path in videos:
        yield from _orbit(subject, path, unpacking, eg3d_path=True)


def _eg3d(source: Path, unpacking: Unpacking) -> Iterator[Result]:
    for subject, path in _videos(source, "*.mp4", lambda path: path.stem):
        yield from _orbit(subject, path, unpacking, eg3d_path=True)


def _panohead(source: Path, unpacking: Unpacking) -> Iterator[Result]:
    if unpacking.cameras is None:
        raise InputError("panohead: give --cameras FILE, the cameras of its videos")
    for subject, path in _videos(source, "*.mp4", lambda path: path.stem):
        yield from _orbit(subject, path, unpacking, eg3d_path=False)


def _goae_reconstruction(source: Path, unpacking: Unpacking) -> Iterator[Result]:  # noqa: ARG001
    images = sorted(source.glob("*/rec_img.jpg"))
    _check_subjects(source, _folders(source), (path.parent.name for path in images))
    for path in images:
        yield Result(path.parent.name, SAME_VIEW, open_photo(path))


def _triplanenet(source: Path, unpacking: Unpacking) -> Iterator[Result]:  # noqa: ARG001
    """Views at yaw angles, with pitch 0."""
    for name, view, path in _triplanenet_images(source, lambda view: view not in (SAME_VIEW, ORIGINAL)):
        camera = label_from_angles(float(view), 0.0)
        yield Result(name, f"yaw{view}", open_photo(path), camera, portrait=_original(path, name))


def _triplanenet_reconstruction(source: Path, unpacking: Unpacking) -> Iterator[Result]:  # noqa: ARG001
    for name, view, path in _triplanenet_images(source, lambda view: view == SAME_VIEW):
        yield Result(name, view, open_photo(path), portrait=_original(path, name))


def _triplanenet_images(source: Path, wanted: Callable[[str], bool]) -> list[tuple[str, str, Path]]:
    """Subject, view and file of the wanted views. Raises InputError if only some subjects have any."""
    named = [(path, _TRIPLANENET.fullmatch(path.name)) for path in image_files(source)]
    images = [(match["name"], match["view"], path) for path, match in named if match is not None]
    chosen = [image for image in images if wanted(image[1])]
    _check_subjects(source, (name for name, _, _ in images), (name for name, _, _ in chosen))
    return chosen


def _original(path: Path, name: str) -> Path | None:
    original = path.with_name(f"{name}_{ORIGINAL}.png")
    return original if original.is_file() else None


def _zero123(source: Path, unpacking: Unpacking) -> Iterator[Result]:  # noqa: ARG001
    """Views at angles relative to the portrait, assumed to be frontal; positive polar is downwards."""
    named = [(path, _ZERO123.fullmatch(path.name)) for path in sorted(source.glob("*/*.png"))]
    images = [(path, match) for path, match in named if match is not None]
    _check_subjects(source, _folders(source), (path.parent.name for path, _ in images))
    for path, match in images:
        yaw, pitch = np.radians((float(match["azimuth"]), -float(match["polar"])))
        yield Result(path.parent.name, path.stem, open_photo(path), label_from_angles(yaw, pitch))


Reader = Callable[[Path, Unpacking], Iterator[Result]]

READERS: dict[str, Reader] = {
    "diffportrait3d": _diffportrait3d,
    "goae": _goae,
    "eg3d": _eg3d,
    "panohead": _panohead,
    "triplanenet": _triplanenet,
    "zero123": _zero123,
}
RECONSTRUCTIONS: dict[str, Reader] = {
    "goae": _goae_reconstruction,
    "triplanenet": _triplanenet_reconstruction,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(
        prog="diffportrait3d unpack",
        description="Convert the results of another system to a folder of predictions.",
    )
    parser.add_class_arguments(Unpacking, as_positional=True, skip={"cameras"})
    parser.add_argument(
        "--cameras", type=str, nargs="+", help="files of EG3D labels, one for each frame of a video"
    )
    predictions = unpack(Unpacking(**parser.parse_args(arguments).as_dict()))
    print(f"{predictions.folder}: {len(predictions.subjects())} subjects, {len(predictions.views)} views")


if __name__ == "__main__":
    with one_line():
        main()
