"""`python -m lightning_modules.synthesize --model DIR --portrait PHOTO… --out DIR`: new views of people.

For the person of `--portrait`, writes into `--out`: the portraits as the model's input, `views/000.png` …,
`views.mp4` and the contact sheet `sheet.png`. For `--portraits`, each person gets a subfolder with these
files. `conditions/`, `cameras.json` and `settings.json` in `--out` are shared by all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser
from PIL import Image

from core.errors import IncompleteError, one_line
from core.files import whole_folder, write_json
from lightning_modules.export_3d import Export, export
from lightning_modules.sampling.call_options import StepCallback
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.plan import CAMERAS, PROXIES, SETTINGS, Plan, make_plan
from lightning_modules.sampling.requests import Request
from lightning_modules.sampling.synthesis import (
    NetworkOptions,
    PersonInputs,
    SharedInputs,
    open_pipeline,
    synthesize_in_processes,
    synthesize_people,
    write_numbered,
)
from lightning_modules.sampling.view_conditions import CONDITIONS, Rendered
from portraits.camera_files import write_cameras
from portraits.image_folders import read_squares
from portraits.people import read_people

EXPORT = "export"  # the folder of 3D formats


@dataclass(frozen=True)
class Loaded:
    """A model that is loaded already, and whom to tell how far its views are.

    Args:
        pipeline: the model.
        on_rendered: called as condition images are rendered, with how many there are and will be.
        on_step_end: the pipeline's callback after each step, with all of its tensors.
    """

    pipeline: DiffPortrait3DPipeline
    on_rendered: Rendered | None = None
    on_step_end: StepCallback | None = None


def synthesize(request: Request, loaded: Loaded | None = None) -> Path:
    """Make the views that a request asks for, and return their folder.

    `loaded` is the request's model where a caller keeps it loaded; everybody is then sampled by its pipeline.
    What its functions raise ends the request and leaves nothing behind.

    Raises InputError before a model is loaded, leaving nothing behind; and IncompleteError at the end where
    some photos of `--portraits` could not be used, and the views of all others are there.
    """
    plan = make_plan(request)
    on_rendered = None if loaded is None else loaded.on_rendered
    with whole_folder(plan.output.folder, plan.output.overwrite) as folder:
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
            synthesize_people(loaded.pipeline, people, shared, folder, on_step_end=loaded.on_step_end)
        else:
            run(plan.networks, plan.device_groups[: len(people)], people, shared, folder)
        if plan.export:
            export_people(plan, people, folder)
    if failures:
        raise IncompleteError(
            f"{len(failures)} photos could not be used: {'; '.join(failures)}; the views of all others are "
            f"in {plan.output.folder}"
        )
    return plan.output.folder


def read_inputs(plan: Plan) -> tuple[list[PersonInputs], list[str]]:
    """Read everyone's images; returns them, and an error line for each photo that could not be used.

    Raises InputError if nobody is left, or if a photo of `--portrait` or a proxy cannot be read.
    """
    portraits, failures = read_people(plan.people, plan.image_size, plan.align, plan.output.person_folders)
    people = []
    for index, (person, images) in enumerate(zip(plan.people, portraits, strict=True)):
        if images:
            folder = person.name if plan.output.person_folders else "."
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
        export(Export(str(own), str(own / EXPORT), plan.export, model=plan.networks.model))


def run(
    networks: NetworkOptions,
    device_groups: list[list[str]],
    people: list[PersonInputs],
    shared: SharedInputs,
    folder: Path,
) -> None:
    """Sample and write everyone's views, in this process, or in one process for each of several device
    groups."""
    if len(device_groups) == 1:
        synthesize_people(open_pipeline(networks, device_groups[0]), people, shared, folder)
    else:
        synthesize_in_processes(networks, device_groups, people, shared, folder)


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
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the results of an earlier run in --out"
    )
    parser.add_class_arguments(Request, skip={"portrait", "cameras", "overwrite"})
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = make_parser()
    print(synthesize(Request(**parser.instantiate(parser.parse_args(arguments)).as_dict())))


if __name__ == "__main__":
    with one_line():
        main()
