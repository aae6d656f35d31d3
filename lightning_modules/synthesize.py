"""`python -m lightning_modules.synthesize --model DIR --portrait PHOTO… --out DIR`: new views of people.

For the person of `--portrait`, writes into `--out`: the portraits as the model's input, `views/000.png` …,
`views.mp4` and the contact sheet `sheet.png`. For `--portraits`, each person gets a subfolder with these
files. `conditions/`, `cameras.json` and `settings.json` in `--out` are shared by all.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from PIL import Image

from core import fingerprints
from core.destination import Destination
from core.engine import LocalEngine
from core.errors import IncompleteError, InputError, one_line
from core.files import RESULT, resumable_folder, whole_folder, write_json
from lightning_modules.export_3d import Export, export
from lightning_modules.sampling import loras
from lightning_modules.sampling.call_options import StepCallback
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.plan import CAMERAS, PROXIES, SETTINGS, Plan, make_plan
from lightning_modules.sampling.presets import FLAG, HELP, parse_with_preset
from lightning_modules.sampling.requests import Request
from lightning_modules.sampling.synthesis import (
    OUT,
    PersonInputs,
    SharedInputs,
    synthesize_on,
    synthesize_people,
    write_numbered,
)
from lightning_modules.sampling.view_conditions import CONDITIONS, ConditionFiles, Rendered
from portraits.camera_files import write_cameras
from portraits.image_folders import read_squares
from portraits.people import read_people

EXPORT = "export"  # the folder of 3D formats
REMEDY = "run the same command again, with fewer --devices"


@dataclass(frozen=True)
class Loaded:
    """A model that is loaded already, and callbacks for the progress of its views.

    Args:
        pipeline: the model.
        on_rendered: called as condition images are rendered, with how many there are and will be.
        on_step_end: the pipeline's callback after each step, with all of its tensors.
    """

    pipeline: DiffPortrait3DPipeline
    on_rendered: Rendered | None = None
    on_step_end: StepCallback | None = None


def synthesize(request: Request, loaded: Loaded | None = None) -> Destination:
    """Generate the views of a request, and return their destination.

    Give `loaded` if the request's model is loaded already: all people are then sampled by its pipeline. An
    exception raised by its callbacks ends the request and leaves nothing behind.

    On a cluster, and for a URL, an interrupted request keeps the people whose views are finished, and the
    same request continues with the others.

    Raises InputError before a model is loaded, leaving nothing behind; and IncompleteError at the end where
    some photos of `--portraits` could not be used, and the views of all others are there.
    """
    plan = make_plan(request)
    destination = plan.output.destination
    if destination.url is not None and destination.is_finished(recipe(plan)):
        failures = missing_people(plan)
    else:
        failures = write_results(plan, loaded)
    destination.deliver(SETTINGS, plan.output.overwrite)
    if failures:
        raise IncompleteError(
            f"{len(failures)} photos could not be used: {'; '.join(failures)}; the views of all others are "
            f"in {destination}"
        )
    return destination


def write_results(plan: Plan, loaded: Loaded | None) -> list[str]:
    """Sample and write everybody's views into the plan's folder. Returns an error line for each photo that
    could not be used, and raises InputError if none could."""
    on_rendered = None if loaded is None else loaded.on_rendered
    with staging(plan) as folder:
        people, failures = read_inputs(plan)
        shared = SharedInputs(
            plan.conditions.images(plan.cameras, plan.image_size, on_rendered),
            plan.cameras,
            plan.sampling,
            plan.seed,
            plan.output.fps,
        )
        write_shared(folder, shared, plan.output.settings)
        if loaded is not None:
            with loras.with_loras(loaded.pipeline, plan.networks.loras):
                synthesize_people(loaded.pipeline, people, shared, folder, on_step_end=loaded.on_step_end)
        else:
            given_up = run(plan, people, shared, folder)
            failures += [f"{name}: {reason}" for name, reason in given_up.items()]
            if len(given_up) == len(people):
                raise InputError(f"nobody's views could be sampled: {'; '.join(failures)}")
            people = [person for person in people if person.folder not in given_up]
        if plan.export:
            export_people(plan, people, folder)
    return failures


def missing_people(plan: Plan) -> list[str]:
    """An error line for each person without results in the plan's folder, which an earlier run finished."""
    folder = plan.output.destination.folder
    names = [person.name for person in plan.people] if plan.output.person_folders else []
    return [f"{name}: left out by an earlier run" for name in names if not (folder / name).is_dir()]


@contextmanager
def staging(plan: Plan) -> Iterator[Path]:
    """Yield the folder that becomes the output folder at the end of the block. On a cluster, and for a URL,
    the folder of an interrupted call for the same inputs is used again, with what is in it."""
    destination, overwrite = plan.output.destination, plan.output.overwrite
    if plan.cluster is None and destination.url is None:
        with whole_folder(destination.folder, overwrite) as folder:
            yield folder
        return
    inputs = recipe(plan)
    with resumable_folder(destination.folder, inputs, overwrite) as work:
        (work / RESULT).mkdir(exist_ok=True)
        yield work / RESULT
        destination.label(work / RESULT, inputs)


def recipe(plan: Plan) -> dict[str, Any]:
    """Everything that the views depend on: settings, and fingerprints of the model, images and LoRAs."""
    files = [photo for person in plan.people for photo in person.photos]
    files += [proxy for proxies in plan.proxies or [] for proxy in proxies]
    files += plan.conditions.files if isinstance(plan.conditions, ConditionFiles) else []
    return {
        "settings": plan.output.settings,
        "model": fingerprints.of_folder(Path(plan.networks.model)),
        "images": {str(path): fingerprints.of_file(path) for path in files},
        "loras": {str(lora.file): fingerprints.of_file(lora.file) for lora in plan.networks.loras},
    }


def read_inputs(plan: Plan) -> tuple[list[PersonInputs], list[str]]:
    """Read everyone's images; returns them, and an error line for each photo that could not be used.

    Raises InputError if nobody is left, or if a photo of `--portrait` or a proxy cannot be read.
    """
    portraits, failures = read_people(plan.people, plan.image_size, plan.align, plan.output.person_folders)
    people = []
    for index, (person, images) in enumerate(zip(plan.people, portraits, strict=True)):
        if images:
            folder = person.name if plan.output.person_folders else OUT
            people.append(PersonInputs(folder, images, read_proxies(plan, index)))
    return people, failures


def read_proxies(plan: Plan, person: int) -> list[Image.Image] | None:
    """Read the proxies of the person with index `person`, if given. Raises InputError."""
    return None if plan.proxies is None else read_squares(plan.proxies[person], plan.image_size, PROXIES)


def write_shared(folder: Path, shared: SharedInputs, settings: dict[str, object]) -> None:
    """Write the files shared by all people: conditions, cameras and settings."""
    write_numbered(folder / CONDITIONS, shared.conditions)
    if shared.cameras is not None:
        write_cameras(shared.cameras, folder / CAMERAS)
    write_json(folder / SETTINGS, settings)


def export_people(plan: Plan, people: list[PersonInputs], folder: Path) -> None:
    """Write everybody's views in the plan's 3D formats, into `export/` of each person's folder."""
    for person in people:
        own = folder / person.folder
        if not (own / EXPORT).exists():  # an interrupted run may have written it
            export(Export(str(own), str(own / EXPORT), plan.export, model=plan.networks.model))


def run(plan: Plan, people: list[PersonInputs], shared: SharedInputs, folder: Path) -> dict[str, str]:
    """Sample and write everyone's views: on a cluster, in this process, or in one process for each of several
    device groups. People whose folder exists are skipped. Returns the reasons for those that were given up,
    by their folder."""
    people = [person for person in people if person.folder == OUT or not (folder / person.folder).exists()]
    groups = plan.device_groups if plan.cluster else plan.device_groups[: len(people)]
    local = LocalEngine(len(groups) if len(groups) > 1 else 0, REMEDY)
    return synthesize_on(plan.cluster or local, plan.networks, groups, people, shared, folder)


def make_parser() -> ArgumentParser:
    """The command's parser: an option for every field of `Request`."""
    parser = ArgumentParser(
        prog="diffportrait3d synthesize", description="Generate new views of people from portraits."
    )
    parser.add_argument(
        "--portrait", type=str, nargs="+", help="one or more photos of one person, or folders of them"
    )
    parser.add_argument(
        "--cameras",
        type=str,
        nargs="+",
        help="EG3D labels (.json, .npy), or photos to estimate cameras from; instead of --trajectory",
    )
    parser.add_argument(FLAG, type=str, help=HELP)
    parser.add_argument("--lora", type=str, nargs="+", help=loras.HELP)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the results of an earlier run in --out"
    )
    parser.add_class_arguments(Request, skip={"portrait", "cameras", "lora", "overwrite"})
    return parser


def parse_request(arguments: Sequence[str]) -> Request:
    """The request of command-line arguments. Raises InputError."""
    parser = make_parser()
    values = parser.instantiate(parse_with_preset(parser, arguments)).as_dict()
    return Request(**{name: value for name, value in values.items() if f"--{name}" != FLAG})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    print(synthesize(parse_request(sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    with one_line():
        main()
