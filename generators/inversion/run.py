"""Inversion of many portraits on one or more devices, with resumption of interrupted runs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from core.engine import Engine, LocalEngine, Task
from core.errors import IncompleteError, InputError
from core.files import exclusive, whole_folder, write_json
from core.lists import shortened, spread
from core.tensors import read_json
from core.workers import Worker
from generators.gan.architecture import Kind
from generators.gan.cameras import check_range, in_world
from generators.gan.generator import Rendering
from generators.gan.options import GeneratorOptions
from generators.gan.renderer import GeneratedHead, as_renders
from generators.inversion.meshes import MeshOptions, write_meshes
from generators.inversion.pivotal import Inversion, Inverted, Tuning
from generators.inversion.portraits import Portrait, keep
from generators.registry import renderer_record
from portraits.alignment.photos import open_photo
from portraits.cameras import angles
from portraits.contact_sheet import Band, save_whole, stack
from portraits.pixels import to_pixels
from portraits.predictions import Predictions, Protocol, View

NAMES: dict[Kind, str] = {"eg3d": "EG3D-PTI", "panohead": "PanoHead-PTI"}
RECIPE, REPORT, SHEET = "inversion.json", "report.json", "sheet.jpg"
REMEDY = "run the same command again to resume, with fewer --devices"
SHEET_PEOPLE, SHEET_VIEWS, SHEET_SIDE = 8, 7, 192


@dataclass(frozen=True)
class Job:
    """Settings of a run.

    Args:
        options: the generator
        tuning: settings of the inversion
        size: side of the views in pixels, 0 for the generator's
        protocol: the evaluation protocol of the views
        mesh: the meshes to write
    """

    options: GeneratorOptions
    tuning: Tuning
    size: int = 0
    protocol: Protocol = "wild"
    mesh: MeshOptions = MeshOptions()  # noqa: RUF009 (frozen)

    def recipe(self) -> dict[str, object]:
        """The settings that the results depend on, as a JSON object, with the fingerprint of the
        generator."""
        recipe: dict[str, object] = {
            "generator": renderer_record(self.options),
            "tuning": asdict(self.tuning),
            "size": self.size,
            "protocol": self.protocol,
        }
        return recipe | ({"mesh": asdict(self.mesh)} if self.mesh.formats else {})


def invert_portraits(
    portraits: Sequence[Portrait],
    job: Job,
    out: Path,
    devices: Sequence[str],
    cluster: Engine | None = None,
) -> Predictions:
    """Invert the portraits that are not in the folder `out` yet, one process per device or by the workers of
    a cluster, and write its manifest of predictions. On a cluster, `devices` are those of every worker.

    The folder can be scored by `evaluate --predictions`, and each `<out>/<name>/` used as proxies for
    `synthesize --noise`. Raises InputError if `out` was written with other settings or another generator, or
    is being written by another process; and IncompleteError if the cluster gave portraits up.
    """
    with exclusive(out):
        return _invert_portraits(portraits, job, out, devices, cluster)


def _invert_portraits(
    portraits: Sequence[Portrait], job: Job, out: Path, devices: Sequence[str], cluster: Engine | None
) -> Predictions:
    _claim(out, job)
    todo = [portrait for portrait in portraits if not _is_done(portrait, out)]
    check_range(np.concatenate([portrait.cameras for portrait in portraits]), job.options.kind)
    processes = min(len(devices), len(todo))
    engine = cluster or LocalEngine(processes if processes > 1 else 0, REMEDY)
    inverter = Inverter(job, out, tuple(devices))
    task = Task("tuning", "inverting", inverter, todo, noun="portrait")
    failures = [
        f"{todo[done.index].name}: {done.failure}" for done in engine.run(task) if done.failure is not None
    ]
    if failures:
        raise IncompleteError(
            f"{len(failures)} of {len(portraits)} portraits could not be inverted:"
            f" {shortened(failures, separator='; ')}; the others are in {out}: run the same command again"
        )
    predictions = _predictions([portrait.name for portrait in portraits], job, out)
    predictions.save()
    save_whole(sheet(predictions), out / SHEET)
    return predictions


def invert_one(head: GeneratedHead, inversion: Inversion, portrait: Portrait, quiet: bool = True) -> Inverted:
    """Invert one portrait into the generator of `head`."""
    side = head.generator.architecture.size
    image = portrait.image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    camera = in_world(portrait.camera[None], head.frame)[0]
    return inversion.fit(
        to_pixels(np.array(image)).to(head.device),
        torch.from_numpy(camera).to(head.device),
        portrait.name,
        quiet,
    )


@torch.inference_mode()
def render_views(
    head: GeneratedHead, inverted: Inverted, cameras: NDArray[np.float32], size: int
) -> NDArray[np.uint8]:
    """Views (K, S, S, 3) of an inverted portrait at labels (K, 25); `size` 0 is the generator's."""
    generator = inverted.generator
    labels = torch.from_numpy(in_world(cameras, head.frame)).unsqueeze(0).to(head.device)
    views = generator.each_view(generator.identity(inverted.styles), labels, Rendering(follow=True))
    return as_renders(views, size or generator.architecture.size).images


def sheet(predictions: Predictions) -> Image.Image:
    """A contact sheet of at most eight people: the portrait and views ordered by yaw, and below them the
    truths where there are any."""
    people = list(predictions.subjects().values())[:SHEET_PEOPLE]
    return stack([_band(views, predictions.folder) for views in people], SHEET_SIDE)


def _band(views: Sequence[View], folder: Path) -> Band:
    cameras = np.array([view.camera for view in views], dtype=np.float32)
    order = np.argsort(angles(cameras)[:, 0], kind="stable")
    chosen = order[spread(len(order), SHEET_VIEWS, ends=True)]
    rows = {"views": [views[0].reference, *(views[view].image for view in chosen)]}
    if any(views[view].truth for view in chosen):
        rows["truths"] = [None, *(views[view].truth for view in chosen)]
    return Band(
        {kind: [name and open_photo(folder / name) for name in names] for kind, names in rows.items()}
    )


def system_name(kind: Kind, tuning: Tuning) -> str:
    """The name in tables: EG3D-PTI or PanoHead-PTI, and in brackets the network of the perceptual loss (LPIPS
    in A.4), or l2 without one."""
    return f"{NAMES[kind]}[{tuning.perceptual if tuning.perceptual_weight else 'l2'}]"


def _claim(out: Path, job: Job) -> None:
    """Create the folder, or check that an existing one belongs to the same job."""
    if (out / RECIPE).is_file():
        if read_json(out / RECIPE) != job.recipe():
            raise InputError(
                f"{out}: written with other settings or another generator: use those again, or another --out"
            )
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} exists and holds no inversions: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RECIPE, job.recipe())


def _is_done(portrait: Portrait, out: Path) -> bool:
    """Whether a portrait is inverted already. Raises InputError if its folder belongs to another portrait or
    other views."""
    folder = out / portrait.name
    if not folder.exists():
        return False
    if read_json(folder / REPORT).get("of") != portrait.fingerprint():
        raise InputError(
            f"{folder} has another portrait, camera, views or truths: remove it, or choose another --out"
        )
    return True


@dataclass(frozen=True)
class Inverter:
    """Inverts portraits into folders in `out`. Worker i loads the generator onto device i."""

    job: Job
    out: Path
    devices: tuple[str, ...]

    def __call__(self, worker: Worker) -> Callable[[Portrait], None]:
        """Load the generator onto the worker's device, and return the function that inverts one portrait."""
        head = GeneratedHead(self.job.options, self.devices[worker.number])
        inversion = Inversion(head.generator, self.job.tuning)
        return lambda portrait: self._invert(portrait, head, inversion, quiet=not worker.shown)

    def _invert(self, portrait: Portrait, head: GeneratedHead, inversion: Inversion, quiet: bool) -> None:
        inverted = invert_one(head, inversion, portrait, quiet)
        images = render_views(head, inverted, portrait.cameras, self.job.size)
        views = keep(portrait, self.out)
        with whole_folder(self.out / portrait.name) as folder:
            for view, image in zip(views, images, strict=True):
                Image.fromarray(image).save(folder / f"{view.view}.png")
            write_meshes(head, inverted, images, portrait.cameras, self.job.mesh, folder)
            report = {"of": portrait.fingerprint(), "distances": inverted.distances}
            write_json(folder / REPORT, report | {"views": [asdict(view) for view in views]})


def _predictions(first: Sequence[str], job: Job, out: Path) -> Predictions:
    """The predictions of all people in `out`: those in `first`, then those of earlier runs."""
    others = sorted({path.parent.name for path in out.glob(f"*/{REPORT}")} - set(first))
    reports = {name: read_json(out / name / REPORT) for name in [*first, *others]}
    views = [
        View.parse(entry, str(out / name / REPORT))
        for name, report in reports.items()
        for entry in report["views"]
    ]
    distances = {name: report["distances"] for name, report in reports.items()}
    settings = {**job.recipe(), "distances": distances}
    return Predictions(out, system_name(job.options.kind, job.tuning), job.protocol, tuple(views), settings)
