"""Views of people, written to a folder: on one device, or on several that people are split over, and longer
paths where people are few. K views."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from tqdm import tqdm

from core.errors import InputError, one_line
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.requests import Precision
from lightning_modules.sampling.settings import Sampling
from portraits.contact_sheet import camera_captions, view_sheet
from portraits.video import write_video

SHEET, VIDEO, VIEWS = "sheet.png", "views.mp4", "views"
INPUT_ERROR = 2  # the exit code of `one_line`


@dataclass(frozen=True)
class Subject:
    """One person: `folder` for the results, below the output folder; portraits, and perhaps a proxy for each
    view, as squares of the model's size."""

    folder: str
    portraits: list[Image.Image]
    proxies: list[Image.Image] | None = None


@dataclass(frozen=True)
class Job:
    """What is made of every person: the K views that the conditions, squares of the model's size, and the
    cameras (K, 25) say, sampled from one seed; and a video of `fps` views a second."""

    model: str
    precision: Precision
    channels_last: bool
    compile: bool
    conditions: list[Image.Image]
    cameras: NDArray[np.float32] | None
    sampling: Sampling
    seed: int
    fps: float


def open_pipeline(
    model: str, precision: Precision, crew: Sequence[str], channels_last: bool = False, compile: bool = False
) -> DiffPortrait3DPipeline:
    """The model in a folder, ready to sample on the devices of a crew. Raises InputError where it is none."""
    pipeline = DiffPortrait3DPipeline.from_pretrained(model, dtype=getattr(torch, precision))
    return pipeline.to(crew[0]).tune(channels_last, compile).replicate(crew[1:])


def make_views(
    pipeline: DiffPortrait3DPipeline, subject: Subject, job: Job, progress: bool
) -> list[Image.Image]:
    """The K views of one person; a function of the person and the job, whoever else is made."""
    return pipeline(
        subject.portraits,
        cameras=job.cameras,
        conditions=job.conditions,
        proxies=subject.proxies,
        seed=job.seed,
        progress=progress,
        **asdict(job.sampling),
    ).images


def write_views(folder: Path, subject: Subject, job: Job, views: Sequence[Image.Image]) -> None:
    """A person's results: portraits, every view, a video, and a contact sheet of all."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, portrait in enumerate(subject.portraits):
        portrait.save(folder / f"portrait_{number}.png")
    write_numbered(folder / VIEWS, views)
    write_video(folder / VIDEO, views, job.fps)
    captions = [f"view {number}" for number in range(len(views))]
    rows = {"conditions": job.conditions, "proxies": subject.proxies, "views": views}
    view_sheet(
        subject.portraits,
        {name: images for name, images in rows.items() if images is not None},
        captions if job.cameras is None else camera_captions(job.cameras),
    ).save(folder / SHEET)


def write_numbered(folder: Path, images: Sequence[Image.Image]) -> None:
    """`000.png`, `001.png` … in a new folder."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number:03d}.png")


def synthesize_people(
    pipeline: DiffPortrait3DPipeline, subjects: Sequence[Subject], job: Job, out: Path, progress: bool = True
) -> None:
    """Make and write the views of all subjects, one after the other, with a progress bar."""
    shown = progress and len(subjects) > 1
    for subject in tqdm(subjects, desc="people", unit="person", disable=not shown):
        write_views(out / subject.folder, subject, job, make_views(pipeline, subject, job, progress))


def synthesize_by_crews(
    crews: Sequence[Sequence[str]], subjects: Sequence[Subject], job: Job, out: Path
) -> None:
    """The same with the subjects split over crews, a process each; the first one shows its progress. Where
    one fails all end; where it fails by a user's mistake, which it has told of, this process ends as well."""
    shares = [list(subjects[start :: len(crews)]) for start in range(len(crews))]
    try:
        spawn(_run_share, (list(crews), shares, job, out), nprocs=len(crews))
    except ProcessExitedException as error:
        if error.exit_code != INPUT_ERROR:
            raise
        raise SystemExit(INPUT_ERROR) from None


def choose_devices(count: int | None) -> list[str]:
    """Where to sample: on `count` GPUs, or all there are; without a GPU `count` times on the CPU, or once.
    Raises InputError for more GPUs than there are."""
    gpus = torch.cuda.device_count()
    if count is not None and count < 1:
        raise InputError(f"--devices {count}: give 1 or more")
    if gpus and count is not None and count > gpus:
        raise InputError(f"--devices {count}: this machine has {gpus}")
    return [f"cuda:{number}" if gpus else "cpu" for number in range(count or max(gpus, 1))]


def crews_of(devices: Sequence[str], people: int, windows: int) -> list[list[str]]:
    """The devices in crews that each make some of the people: one device a crew where there are enough
    people. Of what is left each takes more, no more than a path has windows, which they share."""
    count = min(len(devices), people)
    return [list(devices[first::count])[:windows] for first in range(count)]


def check_precision(precision: Precision, devices: Sequence[str]) -> None:
    """Raises InputError where a network would have to run on the CPU in what it cannot."""
    if precision == "float16" and "cpu" in devices:
        raise InputError("--precision float16 takes a GPU, and there is none: choose bfloat16 or float32")


def _run_share(
    process: int, crews: list[list[str]], shares: list[list[Subject]], job: Job, out: Path
) -> None:
    with one_line():
        pipeline = open_pipeline(job.model, job.precision, crews[process], job.channels_last, job.compile)
        synthesize_people(pipeline, shares[process], job, out, progress=process == 0)
