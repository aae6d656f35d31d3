"""Portraits to invert: from photos and cameras, or from another system's predictions."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from core.files import whole_file
from core.fingerprints import of_file, of_settings
from core.lists import shortened
from portraits.alignment.detection import FaceDetector
from portraits.alignment.photos import open_photo, photo_files
from portraits.contact_sheet import save_whole
from portraits.people import align_portrait, open_portrait
from portraits.predictions import Predictions, View

CROP_SIDE = 512
PORTRAITS = "portraits"
# Folders of the views' files, by their kind in the manifest.
KEPT = {"truth": "truths", "condition": "conditions", "mask": "masks"}


@dataclass(frozen=True)
class Portrait:
    """One person: a name, the square portrait (S, S), its EG3D label (25,), and the `views` to render, each
    with a camera and the absolute paths of its truth, condition and mask, if any."""

    name: str
    image: Image.Image
    camera: NDArray[np.float32]
    views: tuple[View, ...]

    @property
    def cameras(self) -> NDArray[np.float32]:
        """The labels (K, 25) of the views."""
        return np.array([view.camera for view in self.views], dtype=np.float32)

    def fingerprint(self) -> str:
        """Fingerprint of the portrait, its views, and their truths, conditions and masks."""
        files = {kind: [getattr(view, kind) for view in self.views] for kind in KEPT}
        return of_settings(
            {
                "image": hashlib.sha256(self.image.convert("RGB").tobytes()).hexdigest(),
                "cameras": np.vstack([self.camera[None], self.cameras]).tolist(),
                "views": [view.view for view in self.views],
                "files": {
                    kind: [path and of_file(Path(path)) for path in paths] for kind, paths in files.items()
                },
            }
        )


def views_at(name: str, cameras: NDArray[np.float32]) -> tuple[View, ...]:
    """Views of one person at labels (K, 25)."""
    return tuple(
        View(name, f"view_{number:03d}", camera=[float(value) for value in camera])
        for number, camera in enumerate(cameras)
    )


def find_photos(portrait: Sequence[str] | None, portraits: str | None) -> list[Path]:
    """The files of portraits. Raises InputError unless exactly one of the two is given, or if a file is
    missing or two have the same name."""
    if (portrait is None) == (portraits is None):
        raise InputError("give the people: --portrait PHOTO…, or --portraits FOLDER")
    photos = photo_files(Path(portraits)) if portraits else [Path(path) for path in portrait or ()]
    for photo in photos:
        if not photo.is_file():
            raise InputError(f"--portrait {photo}: there is no such file")
    check_names([photo.stem for photo in photos])
    return photos


def check_names(names: Sequence[str]) -> None:
    """Raise InputError if two people have the same name, or one has the name of an output folder."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    reserved = [name for name in names if name in (PORTRAITS, *KEPT.values())]
    if twice or reserved:
        raise InputError(
            f"portraits named {shortened(twice or reserved)}: give each person another file name"
        )


def read_portraits(
    photos: Sequence[Path], own: NDArray[np.float32] | None, cameras: NDArray[np.float32]
) -> tuple[list[Portrait], list[str]]:
    """Read portraits to render at `cameras` (K, 25). Returns those that can be used, and an error line for
    each other photo.

    With labels `own` (N, 25), photos must be square and are used unchanged; without, they are cropped as in
    EG3D and their cameras estimated. Raises InputError that names all photos if none can be used.
    """
    if own is not None and len(own) != len(photos):
        raise InputError(f"--portrait_cameras: {len(own)} labels for {len(photos)} portraits")
    labels = [None] * len(photos) if own is None else list(own)
    people = [
        (path, path.stem, label, views_at(path.stem, cameras))
        for path, label in zip(photos, labels, strict=True)
    ]
    found, failures = _opened(people)
    if not found:
        raise InputError(f"{shortened(failures, separator='; ')}: give other photos, or --portrait_cameras")
    return found, failures


def predicted_portraits(predictions: Predictions) -> list[Portrait]:
    """The portraits of another system's predictions, with the same cameras and truths. References without a
    camera in the manifest are cropped and their cameras estimated. Raises InputError if a view has no camera
    or no reference, or a reference cannot be used."""
    people = []
    subjects = predictions.subjects()
    check_names(list(subjects))
    for name, views in subjects.items():
        first = views[0]
        if first.reference is None or any(view.camera is None for view in views):
            raise InputError(f"{predictions.folder}: {name} has views without a camera or a reference")
        label = None if first.reference_camera is None else np.array(first.reference_camera, np.float32)
        kept = tuple(_found(view, predictions.folder) for view in views)
        people.append((predictions.folder / first.reference, name, label, kept))
    found, failures = _opened(people)
    if failures:
        raise InputError(
            f"{shortened(failures, separator='; ')}: references without a camera in the manifest are cropped"
        )
    return found


def _found(view: View, folder: Path) -> View:
    """The view with absolute paths of its files."""
    names: dict[str, Any] = {kind: getattr(view, kind) for kind in KEPT}
    names = {kind: name and str(folder / name) for kind, name in names.items()}
    return replace(view, **names)


def _opened(
    people: Sequence[tuple[Path, str, NDArray[np.float32] | None, tuple[View, ...]]],
) -> tuple[list[Portrait], list[str]]:
    """Read portraits: files with a label (25,) are squares and used unchanged, others are cropped and their
    cameras estimated. Returns them, and an error line for each that cannot be used."""
    detector = FaceDetector()
    found: list[Portrait] = []
    failures: list[str] = []
    for path, name, label, views in people:
        try:
            if label is not None:
                found.append(Portrait(name, _square(open_photo(path), path), label, views))
            else:
                aligned = align_portrait(open_portrait(path), path, CROP_SIDE, detector=detector)
                found.append(Portrait(name, aligned.image, aligned.camera, views))
        except InputError as error:
            failures.append(str(error))
    return found, failures


def _square(photo: Image.Image, path: Path) -> Image.Image:
    if photo.width != photo.height:
        raise InputError(f"{path}: {photo.width}x{photo.height}; portraits with given cameras are squares")
    return photo


def keep(portrait: Portrait, out: Path) -> list[View]:
    """Copy the portrait and its views' truths, conditions and masks into `out`, and return the views with
    paths relative to it."""
    (out / PORTRAITS).mkdir(exist_ok=True)
    save_whole(portrait.image, out / PORTRAITS / f"{portrait.name}.png")
    return [_kept(view, portrait, out) for view in portrait.views]


def _kept(view: View, portrait: Portrait, out: Path) -> View:
    names: dict[str, Any] = {}
    for kind, folder in KEPT.items():
        if (source := getattr(view, kind)) is not None:
            names[kind] = f"{folder}/{portrait.name}/{view.view}{Path(source).suffix}"
            (out / names[kind]).parent.mkdir(parents=True, exist_ok=True)
            with whole_file(out / names[kind]) as partial:
                shutil.copyfile(source, partial)
    own = [float(value) for value in portrait.camera]
    return replace(view, reference=f"{PORTRAITS}/{portrait.name}.png", reference_camera=own, **names)
