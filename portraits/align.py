"""`python -m portraits.align PHOTO… --out DIR`: EG3D's crops of photos of people, and their cameras.

Writes for each photo its crop `<photo>.png` and `<photo>.overlay.jpg`, the photo with the landmarks, the
outline of the crop and the axes of the head; and `dataset.json` with all labels in EG3D's format.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw
from tqdm import tqdm

from core.errors import IncompleteError, InputError, one_line
from core.files import exclusive, write_json
from core.lists import shortened
from portraits.alignment.align import Aligned
from portraits.alignment.detection import FaceDetector
from portraits.cameras import PIVOT, angles, project
from portraits.contact_sheet import save_whole
from portraits.image_folders import view_files
from portraits.people import align_portrait, open_portrait
from portraits.pixels import check_side

LABELS = "dataset.json"
OVERLAY_SIDE = 1024
AXIS = 0.25  # length in units of EG3D's world
AXES = {"red": (AXIS, 0.0, 0.0), "lime": (0.0, AXIS, 0.0), "deepskyblue": (0.0, 0.0, AXIS)}


def draw_overlay(photo: Image.Image, aligned: Aligned) -> Image.Image:
    """The photo with the five landmarks, the outline of the crop and the head's axes drawn on it: x red, y
    green, z (the direction of the face) blue."""
    scale = min(1.0, OVERLAY_SIDE / max(photo.size))
    shown = photo.resize([max(round(side * scale), 1) for side in photo.size], Image.Resampling.BOX)
    draw = ImageDraw.Draw(shown)
    square = aligned.square
    corner = np.array([square.left, square.top])

    def to_pixels(points: ArrayLike) -> list[tuple[float, float]]:
        """Convert normalised coordinates of the crop to pixels of the photo."""
        return [(float(x), float(y)) for x, y in (np.asarray(points) * square.side + corner) * scale]

    draw.polygon(to_pixels([(0, 0), (1, 0), (1, 1), (0, 1)]), outline="white")
    for x, y in to_pixels(aligned.landmarks):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="yellow", outline="black")
    for colour, tip in AXES.items():
        ends = np.array([PIVOT, np.add(PIVOT, tip)])
        draw.line(to_pixels(project(ends, aligned.camera)), fill=colour, width=3)
    return shown


def find_photos(paths: Sequence[Path]) -> list[Path]:
    """The photos in `paths`, which are photos and folders of photos.

    Raises InputError for a folder without photos, and for photos whose crops would have the same name."""
    photos = [photo for path in paths for photo in (view_files(path, "photos") if path.is_dir() else [path])]
    by_name: dict[str, list[Path]] = {}
    for photo in photos:
        by_name.setdefault(photo.stem, []).append(photo)
    for name, same in by_name.items():
        if len(same) > 1:
            raise InputError(
                f"the crops of {shortened([str(path) for path in same], 4)} would all be named {name}.png:"
                " align them into different folders"
            )
    return photos


def align_photos(
    photos: Sequence[Path], out: Path, size: int, box: Sequence[float] | None = None
) -> list[str]:
    """Align photos into the folder `out`, with a progress bar, and return an error line for each that cannot
    be aligned. Raises InputError if `out` already has labels or cannot be created."""
    labels: list[list[object]] = []
    faults: list[str] = []
    with exclusive(out), tqdm(photos, desc="align", unit="photo") as bar:
        if (out / LABELS).exists():
            raise InputError(f"{out / LABELS} exists already: choose another --out")
        if not out.is_dir() and out.exists():
            raise InputError(f"{out} is a file: choose another --out")
        out.mkdir(exist_ok=True)
        detector = FaceDetector()
        for path in bar:
            try:
                photo = open_portrait(path)
                found = align_portrait(photo, path, size, box, detector)
            except InputError as error:
                faults.append(str(error))
                continue
            save_whole(found.image, out / f"{path.stem}.png")
            save_whole(draw_overlay(photo, found), out / f"{path.stem}.overlay.jpg")
            labels.append([f"{path.stem}.png", [float(value) for value in found.camera]])
            yaw, pitch = np.degrees(angles(found.camera))
            bar.write(f"{path}: yaw {yaw:+.1f}°, pitch {pitch:+.1f}° → {out / path.stem}.png")
        if labels:
            write_json(out / LABELS, {"labels": labels})
    return faults


def make_parser() -> ArgumentParser:
    """The command's parser."""
    parser = ArgumentParser(
        prog="diffportrait3d align", description="EG3D's crops and cameras of photos of people."
    )
    parser.add_argument("photos", type=str, nargs="+", help="photos, or folders of photos")
    parser.add_argument("--out", type=str, required=True, help="the folder for crops, labels and overlays")
    parser.add_argument("--size", type=int, default=512, help="side of the crops in pixels")
    parser.add_argument(
        "--box",
        type=list[float] | None,
        help="the face's box, [left,top,right,bottom] in pixels; by default that of the largest face",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError, and IncompleteError at the end if some photos cannot be aligned."""
    chosen = make_parser().parse_args(arguments)
    check_side(chosen.size, "--size")
    if chosen.box is not None and len(chosen.box) != 4:
        raise InputError(f"--box {chosen.box}: give four numbers, left, top, right and bottom")
    photos = find_photos([Path(path) for path in chosen.photos])
    faults = align_photos(photos, Path(chosen.out), chosen.size, chosen.box)
    if faults:
        raise IncompleteError(f"{len(faults)} of {len(photos)} photos were not aligned: {'; '.join(faults)}")


if __name__ == "__main__":
    with one_line():
        main()
