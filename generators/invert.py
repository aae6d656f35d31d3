"""`diffportrait3d invert --generator DIR --portrait … --cameras … --out DIR`: the inversion baselines (A.4).

Portraits are inverted into EG3D or PanoHead by pivotal tuning and rendered at new cameras. The folder can be
scored by `diffportrait3d evaluate --predictions`, and used as proxies for 3D-aware noise by `diffportrait3d
synthesize --noise`.
"""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from core.destination import Destination
from core.engine import EngineOptions
from core.errors import IncompleteError, InputError, one_line
from generators.gan.options import Frame, GeneratorOptions
from generators.inversion.meshes import MeshOptions
from generators.inversion.pivotal import Tuning
from generators.inversion.portraits import Portrait, find_photos, predicted_portraits, read_portraits
from generators.inversion.run import SHEET, Job, invert_portraits
from portraits.camera_files import read_cameras
from portraits.pixels import check_side
from portraits.predictions import MANIFEST, Predictions, Protocol


def invert(
    generator: str,
    out: str,
    cameras: list[str] | None = None,
    portrait: list[str] | None = None,
    portraits: str | None = None,
    portrait_cameras: str | None = None,
    predictions: str | None = None,
    size: int = 0,
    frame: Frame | None = None,
    tuning: Tuning = Tuning(),  # noqa: B008 (frozen)
    mesh: MeshOptions = MeshOptions(),  # noqa: B008 (frozen)
    device: str | None = None,
    devices: int | None = None,
    staging: str | None = None,
    workers: EngineOptions = EngineOptions(),  # noqa: B008 (frozen)
) -> None:
    """Invert portraits into a generator and render new views of them.

    Args:
        generator: The generator's folder, as import-gan writes it.
        out: The output folder, or a URL that the finished folder is moved to (s3://, gs://, file://); an
            interrupted run is resumed.
        cameras: The views to render of each person: files of EG3D labels (.json, .npy), or photos whose
            cameras are estimated.
        portrait: Photos, one for each person, named after the file.
        portraits: Or a folder of such photos.
        portrait_cameras: A file with a label for each portrait, in order; portraits must then be square and
            are used unchanged. Without it they are cropped as in EG3D and their cameras estimated.
        predictions: Or a folder of another system's predictions, as evaluate writes it: the same portraits
            are inverted and rendered at the same cameras, with the same truths.
        size: Side of the views in pixels; 0 for the generator's.
        frame: own uses labels as the generator's own cameras; measured estimates the pose of its heads
            (PanoHead's default).
        tuning: Steps, learning rates and loss weights.
        mesh: Meshes of the tuned generator's density, head.ply or head.glb beside the views of each person.
        device: cpu, cuda, cuda:N, or mps for Apple's GPU; by default the GPUs of NVIDIA's, if any.
        devices: Number of GPUs to distribute portraits over, all by default; without a GPU, number of
            processes.
        staging: For a URL, the folder to work in, which workers of a cluster have to see as well.
        workers: Where portraits are inverted, if not here.
    """
    destination = Destination.of(out, staging)
    destination.check_vacant()
    options = GeneratorOptions(generator, frame=frame)
    options.check()
    mesh.check()
    check_side(size, "--size", least=0)
    used = workers.devices_for(devices, device)
    protocol, people, failures = find_people(cameras, portrait, portraits, portrait_cameras, predictions)
    job = Job(options, tuning, size, protocol, mesh)
    found = invert_portraits(people, job, destination.folder, used, workers.cluster())
    destination.deliver(MANIFEST)
    for name, distances in found.settings["distances"].items():
        print(f"{name}: distance from the portrait {' → '.join(f'{x:.4f}' for x in distances.values())}")
    subjects = found.subjects()
    print(f"{destination}: {len(found.views)} views of {len(subjects)} people; see {destination}/{SHEET}")
    if failures:
        raise IncompleteError(f"{len(failures)} photos could not be used: {'; '.join(failures)}")


def find_people(
    cameras: Sequence[str] | None,
    portrait: Sequence[str] | None,
    portraits: str | None,
    portrait_cameras: str | None,
    predictions: str | None,
) -> tuple[Protocol, list[Portrait], list[str]]:
    """The evaluation protocol, the portraits with their cameras, and an error line for each photo that cannot
    be used; see `invert`. Raises InputError."""
    if predictions is not None:
        if any(given is not None for given in (cameras, portrait, portraits, portrait_cameras)):
            raise InputError("--predictions already has portraits and cameras: give no others")
        others = Predictions.load(Path(predictions))
        return others.protocol, predicted_portraits(others), []
    photos = find_photos(portrait, portraits)
    if cameras is None:
        raise InputError("give the views: --cameras FILE…")
    views = read_cameras([Path(path) for path in cameras])
    own = None if portrait_cameras is None else read_cameras([Path(portrait_cameras)])
    return "wild", *read_portraits(photos, own, views)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError before a generator is loaded, and IncompleteError at the end where
    some photos could not be used, and the views of all others are there."""
    parser = ArgumentParser(
        prog="diffportrait3d invert", description="Invert portraits into EG3D or PanoHead."
    )
    parser.add_argument(
        "--portrait", type=str, nargs="+", help="photos, one for each person, named after the file"
    )
    parser.add_argument(
        "--cameras",
        type=str,
        nargs="+",
        help="EG3D labels (.json, .npy), or photos to estimate cameras from",
    )
    parser.add_function_arguments(invert, skip={"portrait", "cameras", "workers"})
    parser.add_class_arguments(EngineOptions)
    chosen = parser.parse_args(arguments).as_dict()
    chosen["workers"] = EngineOptions.take(chosen)
    invert(**chosen | {"tuning": Tuning(**chosen["tuning"]), "mesh": MeshOptions(**chosen["mesh"])})


if __name__ == "__main__":
    with one_line():
        main()
