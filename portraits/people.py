"""Users' photos: grouping by person, and cropping for the networks. S image side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from core.errors import InputError
from portraits.alignment.align import Aligned, NoFaceError, align
from portraits.alignment.crop import Square, cut
from portraits.alignment.detection import FaceDetector
from portraits.alignment.photos import open_photo
from portraits.image_folders import image_files, view_files

MIN_SIDE = 32  # pixels of a photo or of the crop of its face


@dataclass(frozen=True)
class Person:
    """A person's name and one or more photos (Eq. 5)."""

    name: str
    photos: tuple[Path, ...]


def find_people(portrait: Sequence[str] | None, portraits: str | None) -> list[Person]:
    """The people to process: one person from `portrait`, a list of photos and folders of photos; or several
    from the folder `portraits`, where each photo and each folder of photos is a person.

    Raises InputError unless exactly one of the two is given, if a file is missing, if there are no photos, or
    if two people have the same name.
    """
    if (portrait is None) == (portraits is None):
        raise InputError("give either --portrait PHOTO… of one person, or --portraits FOLDER of several")
    if portrait is not None:
        paths = [Path(path) for path in portrait]
        return [Person(paths[0].stem, tuple(photo for path in paths for photo in _photos_of(path)))]
    return _people_below(Path(str(portraits)))


def read_people(
    people: Sequence[Person], size: int, aligned: bool, skip: bool, detector: FaceDetector | None = None
) -> tuple[list[list[Image.Image]], list[str]]:
    """Read everyone's portraits (S, S), S = `size`, with `read_portrait` and a progress bar.

    Returns the portraits by person and, with `skip`, an error line for each photo that was left out because
    it cannot be used. Without `skip`, or if no photo is left, raises InputError that names these photos.
    """
    detector = detector or FaceDetector()
    portraits: list[list[Image.Image]] = []
    failures: list[str] = []
    with tqdm(total=sum(len(person.photos) for person in people), desc="portraits", unit="photo") as bar:
        for person in people:
            portraits.append([])
            for photo in person.photos:
                try:
                    portraits[-1].append(read_portrait(photo, size, aligned, detector))
                except InputError as error:
                    failures.append(str(error))
                bar.update()
    if failures and not (skip and any(portraits)):
        raise InputError("; ".join(failures))
    return portraits, failures


def read_portrait(path: Path, size: int, aligned: bool, detector: FaceDetector | None = None) -> Image.Image:
    """Read a photo as RGB (S, S): EG3D's crop of the largest face if `aligned`, otherwise the central square.

    Raises InputError if the file is not a photo, is smaller than `MIN_SIDE`, or has a single colour; and, if
    `aligned`, if no face is found or its crop is smaller than `MIN_SIDE`.
    """
    photo = open_portrait(path)
    if not aligned:
        return cut(photo, _middle(photo), size)
    try:
        return align_portrait(photo, path, size, detector=detector).image
    except NoFaceError as error:
        raise InputError(f"{error}; --align false uses the central square instead") from error


def open_portrait(path: Path) -> Image.Image:
    """Read a photo, upright and RGB. Raises InputError if it is not a photo, is smaller than `MIN_SIDE`, or
    has a single colour."""
    photo = open_photo(path)
    if min(photo.size) < MIN_SIDE:
        raise InputError(
            f"{path}: {photo.width}x{photo.height} pixels are too few for a portrait:"
            f" {MIN_SIDE} a side at least"
        )
    if np.ptp(np.asarray(photo), axis=(0, 1)).max() == 0:
        raise InputError(f"{path}: the image is empty: all its pixels have one colour")
    return photo


def align_portrait(
    photo: Image.Image,
    path: Path,
    size: int,
    box: Sequence[float] | None = None,
    detector: FaceDetector | None = None,
) -> Aligned:
    """Crop a photo with `align`; `path` names the photo in errors.

    Raises NoFaceError if no face is found, and InputError if the crop is smaller than `MIN_SIDE` or far
    larger than a photo."""
    try:
        found = align(photo, size, box, detector)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    if found.square.side < MIN_SIDE:
        raise InputError(
            f"{path}: the face's crop is {found.square.side:.0f} pixels wide, too few for a portrait:"
            f" {MIN_SIDE} at least"
        )
    return found


def _photos_of(path: Path) -> list[Path]:
    """A photo, or the photos in a folder."""
    if path.is_dir():
        return view_files(path, "photos")
    if not path.is_file():
        raise InputError(f"--portrait {path}: there is no such file or folder")
    return [path]


def _people_below(folder: Path) -> list[Person]:
    if not folder.is_dir():
        raise InputError(f"--portraits {folder}: there is no such folder")
    people = [Person(photo.stem, (photo,)) for photo in image_files(folder)]
    folders = [
        below for below in sorted(folder.iterdir()) if below.is_dir() and not below.name.startswith(".")
    ]
    people += [Person(below.name, tuple(photos)) for below in folders if (photos := image_files(below))]
    if not people:
        raise InputError(f"--portraits {folder}: there are no photos in it")
    name, count = Counter(person.name for person in people).most_common(1)[0]
    if count > 1:
        raise InputError(f"--portraits {folder}: {count} photos or folders are called {name}; rename one")
    return people


def _middle(photo: Image.Image) -> Square:
    side = min(photo.size)
    return Square((photo.width - side) / 2, (photo.height - side) / 2, side)
