"""`python -m lightning_modules.synthesize --model DIR --portrait PHOTO… --out DIR`: new views of people.

Writes, for one person into `--out`, for the people of a folder into a folder each below it: the portraits as
the model sees them, `views/000.png` …, `views.mp4` and the contact sheet `sheet.png`; and for all of them
`conditions/`, `cameras.json` and `settings.json`.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jsonargparse import ArgumentParser

from core.errors import InputError, one_line
from core.files import whole_folder, write_json
from core.model_folders import read_json
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.requests import (
    PROXIES,
    Request,
    check_model,
    find_proxies,
    make_conditions,
    plan_views,
    starting_noise,
)
from lightning_modules.sampling.synthesis import (
    Job,
    Subject,
    check_precision,
    choose_devices,
    crews_of,
    open_pipeline,
    synthesize_by_crews,
    synthesize_people,
    write_numbered,
)
from lightning_modules.sampling.view_conditions import CONDITIONS
from portraits.camera_files import write_cameras
from portraits.image_folders import read_squares
from portraits.people import Person, find_people, read_people
from portraits.video import check_video

COMMAND = "lightning_modules.synthesize"
SETTINGS, CAMERAS = "settings.json", "cameras.json"


def synthesize(request: Request) -> Path:
    """Make the views that are asked for; the folder they are in comes back. Raises InputError, before
    anything is sampled, and leaves nothing half-made."""
    out = Path(request.out).resolve()
    check_out(out, request.overwrite)
    check_video()
    people = find_people(request.portrait, request.portraits)
    check_names(people, request)
    devices = choose_devices(request.devices)
    check_precision(request.precision, devices)
    plan = plan_views(request)
    proxies = find_proxies(request.noise, people, len(plan))
    crews = crews_of(devices, len(people), len(plan.windows(request)))
    speed = {"channels_last": request.channels_last, "compile": request.compile}
    crew = crews[0] if len(crews) == 1 else ["cpu"]
    with whole_folder(out, request.overwrite) as folder:
        pipeline = open_pipeline(request.model, request.precision, crew, **speed)
        check_model(pipeline, request, len(plan))
        prior, cameras = pipeline.noise_prior is not None, plan.cameras is not None
        noise = starting_noise(request.noise, proxies is not None, cameras, prior)
        subjects = read_subjects(request, people, proxies, pipeline.image_size)
        job = Job(
            model=request.model,
            precision=request.precision,
            **speed,
            conditions=make_conditions(request, plan, pipeline.image_size),
            cameras=plan.cameras,
            sampling=request.sampling(noise),
            seed=request.seed,
            fps=request.fps,
        )
        write_common(folder, request, job, pipeline.image_size)
        run(pipeline, crews, subjects, job, folder)
    return out


def check_out(out: Path, overwrite: bool) -> None:
    """Raise InputError where `out` exists and is not to be overwritten, or is not this command's own."""
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"--out {out}: it exists already; --overwrite replaces it")
    settings = out / SETTINGS
    if not settings.is_file() or read_json(settings).get("command") != COMMAND:
        raise InputError(f"--out {out}: this command has not made it and will not replace it; choose another")


def check_names(people: Sequence[Person], request: Request) -> None:
    """Raise InputError where a person's folder would be one of this command's own files or folders."""
    own = {CONDITIONS, CAMERAS, SETTINGS}
    for person in people if request.portraits is not None else ():
        if person.name.casefold() in own:
            raise InputError(
                f"--portraits {request.portraits}: nobody can be called {person.name}, as the results have "
                "that name; rename the photo or folder"
            )


def read_subjects(
    request: Request, people: Sequence[Person], proxies: list[list[Path]] | None, size: int
) -> list[Subject]:
    """The people's images as squares of `size`. A single person's results go into the output folder itself.
    Raises InputError."""
    folders = [person.name for person in people] if request.portrait is None else ["."]
    portraits = read_people(people, size, request.align)
    starts = [None] * len(people) if proxies is None else [read_squares(p, size, PROXIES) for p in proxies]
    return [Subject(*parts) for parts in zip(folders, portraits, starts, strict=True)]


def write_common(folder: Path, request: Request, job: Job, size: int) -> None:
    """What is the same for all people: conditions, cameras, and the settings as they were taken."""
    write_numbered(folder / CONDITIONS, job.conditions)
    if job.cameras is not None:
        write_cameras(job.cameras, folder / CAMERAS)
    taken = {**asdict(request), "noise_taken": job.sampling.noise, "image_size": size}
    write_json(folder / SETTINGS, {"command": COMMAND, **taken})


def run(
    pipeline: DiffPortrait3DPipeline,
    crews: list[list[str]],
    subjects: list[Subject],
    job: Job,
    folder: Path,
) -> None:
    """Make and write everybody's views, by one crew of devices in this process or by several in their own."""
    if len(crews) == 1:
        synthesize_people(pipeline, subjects, job, folder)
    else:
        synthesize_by_crews(crews, subjects, job, folder)


def make_parser() -> ArgumentParser:
    """The command's parser: a flag for every field of `Request`."""
    parser = ArgumentParser(prog=f"python -m {COMMAND}", description="New views of the people on portraits.")
    parser.add_argument("--portrait", type=str, nargs="+", help="one or more photos of one person")
    parser.add_argument(
        "--cameras",
        type=str,
        nargs="+",
        help="EG3D labels (.json, .npy) or photos, for their poses; instead of a trajectory",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier run has left in --out"
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
