"""`python -m portraits.align PHOTO… --out DIR`: EG3D's crops of any photos, their cameras, and how they were
found.

Writes `<photo>.png`, `<photo>.overlay.jpg` with landmarks, the crop and the head's axes drawn, and
`dataset.json` with the labels in EG3D's own format.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from core.errors import InputError, one_line
from core.files import write_json
from portraits.alignment.align import Aligned, align
from portraits.alignment.detection import FaceDetector
from portraits.alignment.photos import open_photo
from portraits.cameras import PIVOT, angles, project

LABELS = "dataset.json"
OVERLAY_SIDE = 1024
AXIS = 0.25  # canonical units
AXES = {"red": (AXIS, 0.0, 0.0), "lime": (0.0, AXIS, 0.0), "deepskyblue": (0.0, 0.0, AXIS)}


def overlay(photo: Image.Image, aligned: Aligned) -> Image.Image:
    """The photo with the five landmarks, the crop's outline and the head's axes: x red, y green, z (where the
    face looks) blue."""
    scale = min(1.0, OVERLAY_SIDE / max(photo.size))
    shown = photo.resize([max(round(side * scale), 1) for side in photo.size], Image.Resampling.BOX)
    draw = ImageDraw.Draw(shown)
    square = aligned.square
    corner = np.array([square.left, square.top])

    def place(points: ArrayLike) -> list[tuple[float, float]]:
        """Normalised crop coordinates to pixels of the picture."""
        return [(float(x), float(y)) for x, y in (np.asarray(points) * square.side + corner) * scale]

    draw.polygon(place([(0, 0), (1, 0), (1, 1), (0, 1)]), outline="white")
    for x, y in place(aligned.landmarks):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="yellow", outline="black")
    for colour, tip in AXES.items():
        ends = np.array([PIVOT, np.add(PIVOT, tip)])
        draw.line(place(project(ends, aligned.camera)), fill=colour, width=3)
    return shown


def align_photos(
    photos: Sequence[Path], out: Path, size: int, box: Sequence[float] | None = None
) -> list[str]:
    """Align photos into the folder `out`; what went wrong with which comes back. Raises InputError where
    `out` has labels already, or two photos have one name."""
    names = [photo.stem for photo in photos]
    if (out / LABELS).exists():
        raise InputError(f"{out / LABELS} exists already: choose another --out")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: two photos of this name; align them into different folders")
    out.mkdir(parents=True, exist_ok=True)
    detector = FaceDetector()
    labels: list[list[object]] = []
    troubles = []
    for path, name in zip(photos, names, strict=True):
        try:
            photo = open_photo(path)
            found = align(photo, size, box, detector)
        except InputError as error:
            troubles.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        found.image.save(out / f"{name}.png")
        overlay(photo, found).save(out / f"{name}.overlay.jpg", quality=90)
        labels.append([f"{name}.png", [float(value) for value in found.camera]])
        yaw, pitch = np.degrees(angles(found.camera))
        print(f"{path}: yaw {yaw:+.1f}°, pitch {pitch:+.1f}° → {out / name}.png")
    if labels:
        write_json(out / LABELS, {"labels": labels})
    return troubles


def make_parser() -> ArgumentParser:
    """The command's parser."""
    parser = ArgumentParser(prog="python -m portraits.align", description="EG3D crops and cameras of photos.")
    parser.add_argument("photos", type=str, nargs="+", help="image files")
    parser.add_argument("--out", type=str, required=True, help="the folder for crops, labels and overlays")
    parser.add_argument("--size", type=int, default=512, help="side of the crops in pixels")
    parser.add_argument(
        "--box", type=list[float] | None, help="where the face is, [left,top,right,bottom]; else the largest"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError, at the latest when all photos are done."""
    chosen = make_parser().parse_args(arguments)
    if chosen.size < 16:
        raise InputError(f"--size {chosen.size}: give 16 or more")
    if chosen.box is not None and len(chosen.box) != 4:
        raise InputError(f"--box {chosen.box}: give four numbers, left, top, right and bottom")
    troubles = align_photos(
        [Path(photo) for photo in chosen.photos], Path(chosen.out), chosen.size, chosen.box
    )
    if troubles:
        raise InputError(
            f"{len(troubles)} of {len(chosen.photos)} photos were not aligned: {'; '.join(troubles)}"
        )


if __name__ == "__main__":
    with one_line():
        main()
