"""Inverting many portraits: one after the other or split over GPUs, each one written whole, to be resumed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from tqdm import tqdm

from shards.cameras import angles
from shards.errors import InputError, one_line
from shards.inversion.pivotal import Inversion, Inverted, Tuning, to_tensor
from shards.manifest import write_json
from shards.predictions import Predictions, View
from shards.renderers.gan.cameras import check_range, in_world
from shards.renderers.gan.generator import Rendering
from shards.renderers.gan.options import GeneratorOptions
from shards.renderers.generated import GeneratedHead, as_renders
from shards.weights import read_json, whole_folder

PORTRAITS, RECIPE, REPORT, SHEET = "portraits", "inversion.json", "report.json", "sheet.jpg"
INPUT_ERROR = 2  # the exit code of `one_line`
SHEET_VIEWS, SHEET_SIDE = 7, 192


@dataclass(frozen=True)
class Portrait:
    """One person: a name, the square portrait (S, S) and its label (25,), in the shared convention."""

    name: str
    image: Image.Image
    camera: NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """What is made of every portrait: the views at `cameras` (K, 25), squares of side `size`, 0 for the
    generator's own."""

    options: GeneratorOptions
    tuning: Tuning
    cameras: NDArray[np.float32]
    size: int = 0

    def recipe(self) -> dict[str, object]:
        """What the results depend on, as JSON has it."""
        return {
            "generator": asdict(self.options),
            "tuning": asdict(self.tuning),
            "cameras": self.cameras.tolist(),
            "size": self.size,
        }


def invert_portraits(
    portraits: Sequence[Portrait], job: Job, out: Path, devices: Sequence[str]
) -> Predictions:
    """Invert all portraits that the folder `out` does not have yet, and write the manifest of all.

    `<out>/<name>/view_000.png` …: what `lightning_modules.evaluate --predictions` scores, and
    `lightning_modules.synthesize --noise` starts from. Raises InputError where `out` was made otherwise."""
    _claim(out, job)
    check_range(job.cameras, job.options.kind)
    for portrait in portraits:
        (out / PORTRAITS).mkdir(exist_ok=True)
        portrait.image.save(out / PORTRAITS / f"{portrait.name}.png")
    todo = [portrait for portrait in portraits if not (out / portrait.name).exists()]
    shares = [share for n in range(len(devices)) if (share := todo[n :: len(devices)])]
    if len(shares) > 1:
        _on_devices(list(devices), shares, job, out)
    elif shares:
        _invert_share(devices[0], shares[0], job, out, quiet=False)
    predictions = _predictions(portraits, job, out)
    predictions.save()
    sheet(portraits, job, out).save(out / SHEET, quality=90)
    return predictions


def invert_one(head: GeneratedHead, inversion: Inversion, portrait: Portrait, quiet: bool = True) -> Inverted:
    """One portrait in the generator of `head`."""
    side = head.generator.architecture.size
    image = portrait.image.resize((side, side), Image.Resampling.LANCZOS)
    camera = in_world(portrait.camera[None], head.frame)[0]
    return inversion.fit(
        to_tensor(np.asarray(image)).to(head.device),
        torch.from_numpy(camera).to(head.device),
        portrait.name,
        quiet,
    )


@torch.inference_mode()
def render_views(head: GeneratedHead, inverted: Inverted, job: Job) -> NDArray[np.uint8]:
    """(K, S, S, 3): the inverted portrait at the job's cameras."""
    generator = inverted.generator
    labels = torch.from_numpy(in_world(job.cameras, head.frame)).unsqueeze(0).to(head.device)
    views = generator.each_view(generator.identity(inverted.styles), labels, Rendering(follow=True))
    return as_renders(views, job.size or generator.architecture.size).images


def sheet(portraits: Sequence[Portrait], job: Job, out: Path) -> Image.Image:
    """A row for each portrait (eight at most): the portrait, and views from left to right."""
    order = np.argsort(angles(job.cameras)[:, 0], kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(SHEET_VIEWS, len(order))).round().astype(int)]
    rows = []
    for portrait in portraits[:8]:
        tiles = [portrait.image]
        tiles += [Image.open(out / portrait.name / f"view_{view:03d}.png") for view in chosen]
        shown = [np.asarray(tile.convert("RGB").resize((SHEET_SIDE, SHEET_SIDE))) for tile in tiles]
        rows.append(np.concatenate(shown, axis=1))
    return Image.fromarray(np.concatenate(rows))


def _claim(out: Path, job: Job) -> None:
    """Make the folder, or go on with it where it is of the same job."""
    if (out / RECIPE).is_file():
        if read_json(out / RECIPE) != job.recipe():
            raise InputError(
                f"{out}: begun with other settings or cameras: use those again, or another --out"
            )
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} exists and is not of inversions: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RECIPE, job.recipe())


def _invert_share(device: str, portraits: Sequence[Portrait], job: Job, out: Path, quiet: bool) -> None:
    head = GeneratedHead(job.options, device)
    inversion = Inversion(head.generator, job.tuning)
    for portrait in tqdm(portraits, desc="inverting", unit="portrait", disable=quiet):
        inverted = invert_one(head, inversion, portrait, quiet)
        images = render_views(head, inverted, job)
        with whole_folder(out / portrait.name) as folder:
            for view, image in enumerate(images):
                Image.fromarray(image).save(folder / f"view_{view:03d}.png")
            write_json(folder / REPORT, {"distances": inverted.distances})


def _on_devices(devices: list[str], shares: list[list[Portrait]], job: Job, out: Path) -> None:
    try:
        spawn(_run_share, (devices, shares, job, out), nprocs=len(shares))
    except ProcessExitedException as error:
        if error.exit_code != INPUT_ERROR:
            raise
        raise SystemExit(INPUT_ERROR) from None


def _run_share(process: int, devices: list[str], shares: list[list[Portrait]], job: Job, out: Path) -> None:
    with one_line():
        _invert_share(devices[process], shares[process], job, out, quiet=process > 0)


def _predictions(portraits: Sequence[Portrait], job: Job, out: Path) -> Predictions:
    views = tuple(
        View(
            portrait.name,
            f"view_{view:03d}",
            reference=f"{PORTRAITS}/{portrait.name}.png",
            camera=[float(value) for value in camera],
        )
        for portrait in portraits
        for view, camera in enumerate(job.cameras)
    )
    reports = {p.name: read_json(out / p.name / REPORT)["distances"] for p in portraits}
    settings = {**job.recipe(), "distances": reports}
    return Predictions(out, f"{job.options.kind} inversion", "wild", views, settings)
