"""`python -m lightning_modules.evaluation.unpack KIND SOURCE OUT`: what other systems write → a folder of
predictions that `lightning_modules.evaluate --predictions DIR` scores.

| KIND | SOURCE holds |
|---|---|
| diffportrait3d | `<id>.mp4`, a frame for each image of `--conditions DIR`, as the released script writes |
| goae | `<id>/video.mp4`, the orbit of EG3D's videos; `<id>/rec_img.jpg`, the reconstruction |
| eg3d | `<id>.mp4`, the same, as EG3D-projector and PTI write |
| panohead | `<id>.mp4`; its cameras are a setting of its own: name them with `--cameras` |
| triplanenet | `<id>_<yaw in radians>.png`; `<id>_same-view.png`, made again from `<id>_original.png` |
| zero123 | `<id>/<polar>_<azimuth>.png`, degrees from a frontal portrait, azimuth to the camera's right |

All subjects have the same views: results that were cut off are refused. New views are taken by default;
`--protocol reconstruction` or `wild` takes the reconstructions instead, whose truth is the portrait.
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
from lightning_modules.evaluation.subjects import Protocol
from lightning_modules.sampling.trajectories import trajectory
from portraits.alignment.photos import open_photo
from portraits.camera_files import read_cameras
from portraits.cameras import label_from_angles
from portraits.image_folders import check_count, image_files, view_files
from portraits.predictions import Predictions, View
from portraits.video import check_video

Kind = Literal["diffportrait3d", "goae", "eg3d", "panohead", "triplanenet", "zero123"]
# degrees: EG3D's gen_videos turns 0.35 rad sideways and 0.25 of its pitch parameter
EG3D_VIDEO = (20.05, 9.16)
SAME_VIEW, ORIGINAL = "same-view", "original"

_ANGLE = r"-?\d+(?:\.\d+)?"
_TRIPLANENET = re.compile(rf"(?P<name>.+)_(?P<view>{SAME_VIEW}|{ORIGINAL}|{_ANGLE})\.png")
_ZERO123 = re.compile(rf"(?P<polar>{_ANGLE})_(?P<azimuth>{_ANGLE})\.png")


@dataclass(frozen=True)
class Unpacking:
    """What is unpacked.

    Args:
        kind: which system wrote it
        source: the folder it wrote
        out: the folder of predictions
        protocol: novel_view takes new views, reconstruction and wild (of photos) the portrait made again
        portraits: a folder of the reference portraits, `<id>.png` or any image of that name
        conditions: a folder of condition images, one for each frame of a video
        cameras: files of EG3D labels, one for each frame of a video
        truths: a folder `<id>/<view>.png` of what the views should be
        system: how the table calls it; the kind by default
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
class Found:
    """One image of a system: whose it is, which view, its pixels, its camera (25), its condition image and
    the portrait it is made of, as far as the system tells."""

    subject: str
    view: str
    image: Image.Image
    camera: NDArray[np.float32] | None = None
    condition: Path | None = None
    portrait: Path | None = None


def unpack(unpacking: Unpacking) -> Predictions:
    """Write the folder of predictions. Raises InputError on a source that is not as the kind writes it, and
    on portraits or truths that are not those of its subjects and views."""
    source = Path(unpacking.source)
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder")
    reader, portraits = _reader(unpacking), _portraits(unpacking)
    with whole_folder(Path(unpacking.out)) as folder:
        views = [
            _write(folder, found, portraits, unpacking)
            for found in tqdm(reader(source, unpacking), desc="unpacking", unit="view")
        ]
        if not views:
            raise InputError(f"{source}: nothing in it is named as {unpacking.kind} names its results")
        _check_alike(views, source)
        _check_portraits(views, portraits, unpacking)
        _check_truths(views, unpacking)
        settings: dict[str, Any] = {"unpacked": unpacking.kind}
        system = unpacking.system or unpacking.kind
        Predictions(folder, system, unpacking.protocol, tuple(views), settings).save()
    return Predictions.load(Path(unpacking.out))


def _reader(unpacking: Unpacking) -> "Reader":
    """What reads a kind's results of a protocol. Raises InputError where it writes none."""
    if unpacking.protocol == "novel_view":
        return READERS[unpacking.kind]
    if unpacking.kind not in RECONSTRUCTIONS:
        raise InputError(
            f"--protocol {unpacking.protocol}: {unpacking.kind} writes new views only; reconstructions are"
            f" written by {', '.join(RECONSTRUCTIONS)}"
        )
    return RECONSTRUCTIONS[unpacking.kind]


def _write(folder: Path, found: Found, portraits: dict[str, Path], unpacking: Unpacking) -> View:
    """One view's files, and its entry in the manifest."""
    place = folder / found.subject
    place.mkdir(exist_ok=True)
    stem = f"{found.subject}/{found.view}"
    found.image.save(folder / f"{stem}.png")
    view = View(found.subject, found.view)
    if found.camera is not None:
        view = replace(view, camera=found.camera.tolist())
    if found.condition is not None:
        open_photo(found.condition).save(folder / f"{stem}.condition.png")
        view = replace(view, condition=f"{stem}.condition.png")
    portrait = portraits.get(found.subject, found.portrait)
    if portrait is not None:
        view = replace(view, reference=f"{found.subject}/reference.png")
        if not (folder / str(view.reference)).exists():
            open_photo(portrait).save(folder / str(view.reference))
    truth = _truth(found, portrait, unpacking)
    if truth is not None:
        open_photo(truth).save(folder / f"{stem}.truth.png")
        view = replace(view, truth=f"{stem}.truth.png")
    return view


def _truth(found: Found, portrait: Path | None, unpacking: Unpacking) -> Path | None:
    """What a view should be. Raises InputError where a portrait that is made again is missing."""
    if unpacking.truths is not None:
        return Path(unpacking.truths) / found.subject / f"{found.view}.png"
    if unpacking.protocol == "novel_view":
        return None
    if portrait is None:
        raise InputError(f"{found.subject}: what it is a reconstruction of is in no folder --portraits DIR")
    return portrait


def _portraits(unpacking: Unpacking) -> dict[str, Path]:
    if unpacking.portraits is None:
        return {}
    return {path.stem: path for path in view_files(Path(unpacking.portraits), "portraits")}


def _check_alike(views: Sequence[View], source: Path) -> None:
    """Raise InputError unless all subjects have the same views: where some lack any they were cut off, and
    cameras along a path would be those of another number of frames."""
    names: dict[str, set[str]] = {}
    for view in views:
        names.setdefault(view.subject, set()).add(view.view)
    every = set().union(*names.values())
    partial = {subject: own for subject, own in names.items() if own != every}
    if partial:
        told = shortened([f"{subject} {len(own)}" for subject, own in partial.items()])
        raise InputError(
            f"{source}: {len(partial)} of {len(names)} subjects have not all of the {len(every)} views that"
            f" there are: {told}; partial results are not scored"
        )


def _check_subjects(source: Path, there: Iterable[str], found: Iterable[str]) -> None:
    """Raise InputError where subjects are `there` and only some of them are `found` to have results."""
    everybody, made = set(there), set(found)
    without = sorted(everybody - made)
    if made and without:
        raise InputError(
            f"{source}: {len(without)} of {len(everybody)} subjects in it have no results:"
            f" {shortened(without)}; partial results are not scored"
        )


def _folders(source: Path) -> list[str]:
    """The subjects of a kind that keeps a folder for each."""
    return [path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _check_portraits(views: Sequence[View], portraits: dict[str, Path], unpacking: Unpacking) -> None:
    """Raise InputError where portraits are given and they are not those of the subjects."""
    subjects = {view.subject for view in views}
    without, unmade = sorted(subjects - portraits.keys()), sorted(portraits.keys() - subjects)
    if portraits and without:
        raise InputError(
            f"{unpacking.portraits}: {len(without)} subjects of {unpacking.source} have no portrait in it:"
            f" {shortened(without)}"
        )
    if unmade:
        raise InputError(
            f"{unpacking.source}: {len(unmade)} of {len(portraits)} portraits have no results in it:"
            f" {shortened(unmade)}; partial results are not scored"
        )


def _check_truths(views: Sequence[View], unpacking: Unpacking) -> None:
    """Raise InputError where truths are given that no view was made of."""
    if unpacking.truths is None:
        return
    there = {path.relative_to(unpacking.truths).as_posix() for path in Path(unpacking.truths).glob("*/*.png")}
    unmade = sorted(there - {view.image for view in views})
    if unmade:
        raise InputError(
            f"{unpacking.source}: {len(unmade)} of {len(there)} truths have no result in it:"
            f" {shortened(unmade)}; partial results are not scored"
        )


def _videos(source: Path, pattern: str, name: Callable[[Path], str]) -> list[tuple[str, Path]]:
    """Videos by subject. Raises InputError where there are none."""
    check_video()
    found = sorted(source.glob(pattern))
    if not found:
        raise InputError(f"{source}: there are no {pattern} in it")
    return [(name(path), path) for path in found]


def frames_of(path: Path) -> list[Image.Image]:
    """The frames of a video, RGB. Raises InputError where it cannot be read."""
    from imageio_ffmpeg import read_frames

    try:
        stream = read_frames(str(path))
        size = next(stream)["size"]
        return [Image.frombytes("RGB", size, frame) for frame in stream]
    except (OSError, RuntimeError, StopIteration, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(f"{path}: cannot be read as a video ({reason[0] if reason else 'empty'})") from error


def _orbit(subject: str, path: Path, unpacking: Unpacking, eg3d_path: bool) -> Iterator[Found]:
    """A video's frames at the cameras given, or along the orbit of EG3D's videos."""
    images = frames_of(path)
    conditions = image_files(Path(unpacking.conditions)) if unpacking.conditions is not None else None
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
        yield Found(subject, f"{number:03d}", image, camera, condition)


def _diffportrait3d(source: Path, unpacking: Unpacking) -> Iterator[Found]:
    if unpacking.conditions is None:
        raise InputError("diffportrait3d: --conditions DIR names the camera images that its script was given")
    for subject, path in _videos(source, "*.mp4", lambda path: path.stem):
        yield from _orbit(subject, path, unpacking, eg3d_path=False)


def _goae(source: Path, unpacking: Unpacking) -> Iterator[Found]:
    videos = _videos(source, "*/video.mp4", lambda path: path.parent.name)
    _check_subjects(source, _folders(source), (subject for subject, _ in videos))
    for subject, path in videos:
        yield from _orbit(subject, path, unpacking, eg3d_path=True)


def _eg3d(source: Path, unpacking: Unpacking) -> Iterator[Found]:
    for subject, path in _videos(source, "*.mp4", lambda path: path.stem):
        yield from _orbit(subject, path, unpacking, eg3d_path=True)


def _panohead(source: Path, unpacking: Unpacking) -> Iterator[Found]:
    if unpacking.cameras is None:
        raise InputError("panohead: --cameras FILE says where its video's cameras were")
    for subject, path in _videos(source, "*.mp4", lambda path: path.stem):
        yield from _orbit(subject, path, unpacking, eg3d_path=False)


def _goae_reconstruction(source: Path, unpacking: Unpacking) -> Iterator[Found]:  # noqa: ARG001
    images = sorted(source.glob("*/rec_img.jpg"))
    _check_subjects(source, _folders(source), (path.parent.name for path in images))
    for path in images:
        yield Found(path.parent.name, SAME_VIEW, open_photo(path))


def _triplanenet(source: Path, unpacking: Unpacking) -> Iterator[Found]:  # noqa: ARG001
    """Views at yaw angles, pitch 0."""
    for name, view, path in _triplanenet_images(source, lambda view: view not in (SAME_VIEW, ORIGINAL)):
        camera = label_from_angles(float(view), 0.0)
        yield Found(name, f"yaw{view}", open_photo(path), camera, portrait=_original(path, name))


def _triplanenet_reconstruction(source: Path, unpacking: Unpacking) -> Iterator[Found]:  # noqa: ARG001
    for name, view, path in _triplanenet_images(source, lambda view: view == SAME_VIEW):
        yield Found(name, view, open_photo(path), portrait=_original(path, name))


def _triplanenet_images(source: Path, wanted: Callable[[str], bool]) -> list[tuple[str, str, Path]]:
    """Subject, view and file of the views that are wanted. Raises InputError where a subject has none."""
    named = [(path, _TRIPLANENET.fullmatch(path.name)) for path in image_files(source)]
    images = [(match["name"], match["view"], path) for path, match in named if match is not None]
    chosen = [image for image in images if wanted(image[1])]
    _check_subjects(source, (name for name, _, _ in images), (name for name, _, _ in chosen))
    return chosen


def _original(path: Path, name: str) -> Path | None:
    original = path.with_name(f"{name}_{ORIGINAL}.png")
    return original if original.is_file() else None


def _zero123(source: Path, unpacking: Unpacking) -> Iterator[Found]:  # noqa: ARG001
    """Views at angles from the portrait's, which is taken to be frontal; positive polar is downwards."""
    named = [(path, _ZERO123.fullmatch(path.name)) for path in sorted(source.glob("*/*.png"))]
    images = [(path, match) for path, match in named if match is not None]
    _check_subjects(source, _folders(source), (path.parent.name for path, _ in images))
    for path, match in images:
        yaw, pitch = np.radians((float(match["azimuth"]), -float(match["polar"])))
        yield Found(path.parent.name, path.stem, open_photo(path), label_from_angles(yaw, pitch))


Reader = Callable[[Path, Unpacking], Iterator[Found]]

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
        prog="python -m lightning_modules.evaluation.unpack",
        description="What other systems write, as a folder of predictions.",
    )
    parser.add_class_arguments(Unpacking, as_positional=True)
    made = unpack(Unpacking(**parser.parse_args(arguments).as_dict()))
    print(f"{made.folder}: {len(made.subjects())} subjects, {len(made.views)} views")


if __name__ == "__main__":
    with one_line():
        main()
