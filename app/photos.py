"""Checks an uploaded photo, and finds its faces, the crop of the chosen one, and its pose. S image side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from core.errors import InputError
from generators.parametric.renderer import SyntheticHead
from portraits.alignment.align import Aligned
from portraits.alignment.camera import turn_of_rotation
from portraits.alignment.detection import FaceDetector, overlap
from portraits.alignment.photos import photo_size
from portraits.cameras import angles, label_from_angles, split_label
from portraits.people import align_portrait, open_portrait

MAX_BYTES = 32 << 20
MAX_PIXELS = 60_000_000
MAX_PHOTOS = 8
SHOWN_SIDE = 360  # pixels of a photo on the page
PEOPLE = range(1, 9)  # the built-in people to choose from
FRAME, CHOSEN = "#8a94a6", "#f97316"


@dataclass(frozen=True)
class Photo:
    """A photo that was checked.

    Args:
        path: the file.
        crop: the networks' input (S, S).
        pose: yaw, pitch and roll in degrees; None if the photo is not aligned.
        boxes: the box of each face: left, top, right, bottom in pixels; the largest first.
        chosen: index in `boxes` of the face that is cropped.
        largest: whether that is the face which `synthesize` would choose by itself.
        is_crop: whether the photo is an EG3D crop already, as the built-in people's are.
    """

    path: Path
    crop: Image.Image
    pose: tuple[float, float, float] | None = None
    boxes: tuple[tuple[float, ...], ...] = ()
    chosen: int = 0
    largest: bool = True
    is_crop: bool = False


def check_upload(path: Path) -> None:
    """Raise InputError if an upload is too large or not a photo; reads no pixels."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{shown_name(path)}: {size >> 20} MB are too many: {MAX_BYTES >> 20} at most")
    try:
        width, height = photo_size(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), shown_name(path))) from error
    if width * height > MAX_PIXELS:
        raise InputError(f"{shown_name(path)}: {width}x{height} pixels are too many: scale it down")


def check_photo(path: Path, size: int, detector: FaceDetector, face: int | None = None) -> Photo:
    """Crop the face with index `face` of a photo (by default the one that `synthesize` chooses) to S =
    `size`.

    Raises InputError if the file is not a photo, has no face, or the crop is too small.
    """
    check_upload(path)
    name = shown_name(path)
    try:
        image = open_portrait(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error
    faces = detector.faces(image)
    own = align_portrait(image, Path(name), size, detector=detector)
    largest = _matching(own, [found.box for found in faces])
    if face is None or face == largest or not faces:
        found, chosen = own, largest
    else:
        chosen = min(face, len(faces) - 1)
        found = align_portrait(image, Path(name), size, faces[chosen].box.tolist(), detector)
    boxes = tuple(tuple(float(edge) for edge in found.box) for found in faces)
    return Photo(path, found.image, pose_in_degrees(found.camera), boxes, chosen, chosen == largest)


def shown_name(path: Path) -> str:
    """The name that the visitor's file had: an upload is stored as a number, a hyphen and that name."""
    return path.name.partition("-")[2] or path.name


def choose_face(photo: Photo, face: int, size: int, detector: FaceDetector) -> Photo:
    """The same photo with another face chosen. Raises InputError as `check_photo`."""
    return photo if photo.is_crop or face == photo.chosen else check_photo(photo.path, size, detector, face)


def built_in_person(number: int, size: int, path: Path) -> Photo:
    """Render a built-in person's portrait at S = `size` into the file `path`."""
    label = label_from_angles(*np.radians((8.0 if number % 2 else -8.0, 2.0)))
    image = Image.fromarray(SyntheticHead(place="studio").render(number, label[None], size).images[0])
    image.save(path)
    return Photo(path, image, pose_in_degrees(label), is_crop=True)


def pose_in_degrees(camera: NDArray[np.floating]) -> tuple[float, float, float]:
    """Yaw, pitch and roll of a label (25,)."""
    yaw, pitch = np.degrees(angles(camera)).tolist()
    roll = float(np.degrees(turn_of_rotation(split_label(camera)[0][:3, :3])[2]))
    return yaw, pitch, roll


def portrait_files(photos: Sequence[Photo], folder: Path) -> tuple[list[str], bool]:
    """Copy the portraits into `folder`; returns the files for `--portrait`, and the value of `--align`.

    The files are the photos if `synthesize` would crop them in the same way, otherwise the crops, which are
    used unaligned.
    """
    aligned = all(photo.largest and not photo.is_crop for photo in photos)
    files = []
    for number, photo in enumerate(photos):
        if aligned:
            file = folder / f"{number}-{photo.path.name}"
            file.write_bytes(photo.path.read_bytes())
        else:
            file = folder / f"{number}-{photo.path.stem}.png"
            photo.crop.save(file)
        files.append(str(file))
    return files, aligned


def framed(photo: Photo) -> Image.Image:
    """A small copy of a photo with numbered boxes around its faces; that of the chosen face is coloured."""
    with Image.open(photo.path) as file:
        stored = max(file.size)
    image = open_portrait(photo.path)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BICUBIC)
    scale = max(image.size) / stored
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for number, box in enumerate(photo.boxes):
        left, top, right, bottom = (edge * scale for edge in box)
        colour = CHOSEN if number == photo.chosen else FRAME
        draw.rectangle((left, top, right, bottom), outline=colour, width=3)
        if len(photo.boxes) > 1:
            draw.text((left + 5, top + 2), str(number + 1), colour, font)
    return image


def replaced(photos: Sequence[Photo], number: int, photo: Photo) -> list[Photo]:
    """The photos with `photo` at index `number`."""
    return [replace(photo) if index == number else old for index, old in enumerate(photos)]


def _matching(own: Aligned, boxes: Sequence[NDArray[np.float64]]) -> int:
    """Index of the box that overlaps the aligned face most."""
    shared = [overlap(own.face.box, box) for box in boxes]
    return int(np.argmax(shared)) if shared else 0
