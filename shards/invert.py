"""`python -m shards.invert --generator DIR --portrait … --cameras … --out DIR`: the inversion baselines.

Portraits are inverted into EG3D or PanoHead by pivotal tuning (A.4) and rendered at new cameras. The folder
made is scored by `lightning_modules.evaluate --predictions`, and its people's folders are proxies for the
3D-aware noise of `lightning_modules.synthesize --noise`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from PIL import Image

from shards.alignment.align import NoFaceError, align
from shards.alignment.detection import FaceDetector
from shards.alignment.photos import open_photo, photo_files
from shards.camera_files import read_cameras
from shards.errors import InputError, one_line
from shards.inversion.pivotal import Tuning
from shards.inversion.run import PORTRAITS, Job, Portrait, invert_portraits
from shards.renderers.gan.folder import read_settings
from shards.renderers.gan.options import Frame, GeneratorOptions


def invert(
    generator: str,
    out: str,
    cameras: list[str],
    portrait: list[str] | None = None,
    portraits: str | None = None,
    portrait_cameras: str | None = None,
    size: int = 0,
    frame: Frame | None = None,
    tuning: Tuning = Tuning(),  # noqa: B008 (frozen)
    devices: int | None = None,
) -> None:
    """Invert portraits into a generator and render new views of them.

    Args:
        generator: The generator's folder (python -m shards.import_gan makes it).
        out: The folder to make; one that was interrupted is gone on with.
        cameras: Files of EG3D labels (.json, .npy), or photos whose pose is taken: the views of everybody.
        portrait: Photos, one a person; the file's name is the person's.
        portraits: Or a folder of them.
        portrait_cameras: A file with a label for each portrait, in order: they are squares already and are
            taken as they are. Without one portraits are cropped as EG3D does and their cameras estimated.
        size: Side of the views in pixels; 0 is the generator's own.
        frame: own takes labels as the generator's; measured finds where its heads stand (PanoHead's default).
        tuning: Steps, rates and weights.
        devices: How many GPUs to split portraits over; all by default.
    """
    settings = read_settings(Path(generator))
    options = GeneratorOptions(
        settings.kind, generator, frame=frame or ("measured" if settings.kind == "panohead" else "own")
    )
    if size < 0:
        raise InputError(f"--size {size}: give 0 or more")
    photos = find_photos(portrait, portraits)
    used = choose_devices(devices, len(photos))
    views = read_cameras([Path(path) for path in cameras])
    own = None if portrait_cameras is None else read_cameras([Path(portrait_cameras)])
    people = read_portraits(photos, own)
    folder = Path(out)
    predictions = invert_portraits(people, Job(options, tuning, views, size), folder, used)
    for name, distances in predictions.settings["distances"].items():
        print(f"{name}: distance from the portrait {' → '.join(f'{x:.4f}' for x in distances.values())}")
    print(f"{folder}: {len(views)} views of {len(people)} portraits; see {folder / 'sheet.jpg'}")


def find_photos(portrait: Sequence[str] | None, portraits: str | None) -> list[Path]:
    """The portraits' files. Raises InputError where none or both are given, one is missing, or two have one
    name."""
    if (portrait is None) == (portraits is None):
        raise InputError("give the people: --portrait PHOTO…, or --portraits FOLDER")
    photos = photo_files(Path(portraits)) if portraits else [Path(path) for path in portrait or ()]
    for photo in photos:
        if not photo.is_file():
            raise InputError(f"--portrait {photo}: there is no such file")
    twice = [name for name, count in Counter(photo.stem for photo in photos).items() if count > 1]
    if twice or any(photo.stem == PORTRAITS for photo in photos):
        raise InputError(
            f"portraits named {', '.join(twice) or PORTRAITS}: give each person another file name"
        )
    return photos


def read_portraits(photos: Sequence[Path], cameras: NDArray[np.float32] | None) -> list[Portrait]:
    """Portraits with their cameras: given ones (N, 25) for squares, or estimated on EG3D's crop. Raises one
    InputError that names the photos in which no face is found."""
    if cameras is not None and len(cameras) != len(photos):
        raise InputError(f"--portrait_cameras: {len(cameras)} labels for {len(photos)} portraits")
    detector, found, faceless = FaceDetector(), [], []
    for index, path in enumerate(photos):
        photo = open_photo(path)
        if cameras is not None:
            found.append(Portrait(path.stem, _square(photo, path), cameras[index]))
            continue
        try:
            aligned = align(photo, 512, detector=detector)
        except NoFaceError:
            faceless.append(str(path))
            continue
        found.append(Portrait(path.stem, aligned.image, aligned.camera))
    if faceless:
        raise InputError(
            f"no face is found in {', '.join(faceless)}: give other photos, or --portrait_cameras"
        )
    return found


def choose_devices(count: int | None, portraits: int) -> list[str]:
    """The GPUs to use, no more than there are portraits; the CPU without one. Raises InputError for more than
    there are."""
    gpus = torch.cuda.device_count()
    if count is not None and not 1 <= count <= max(gpus, 1):
        raise InputError(f"--devices {count}: this machine has {gpus} GPUs")
    used = min(count or max(gpus, 1), portraits)
    return [f"cuda:{number}" for number in range(used)] if gpus else ["cpu"]


def _square(photo: Image.Image, path: Path) -> Image.Image:
    if photo.width != photo.height:
        raise InputError(
            f"{path}: {photo.width}x{photo.height}; with --portrait_cameras portraits are squares"
        )
    return photo


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(
        prog="python -m shards.invert", description="Invert portraits into EG3D or PanoHead."
    )
    parser.add_argument(
        "--portrait", type=str, nargs="+", help="photos, one a person, who has the file's name"
    )
    parser.add_argument(
        "--cameras", type=str, nargs="+", required=True, help="EG3D labels (.json, .npy), or photos for poses"
    )
    parser.add_function_arguments(invert, skip={"portrait", "cameras"})
    chosen = parser.parse_args(arguments).as_dict()
    invert(**chosen | {"tuning": Tuning(**chosen["tuning"])})


if __name__ == "__main__":
    with one_line():
        main()
