"""Sampling of people's views and writing of results, by one or more workers. K views, S image side."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from core.engine import Engine, Task
from core.files import PARTIAL, exclusive, whole_folder
from core.workers import Worker
from lightning_modules.sampling.call_options import CALLBACK_TENSORS, StepCallback
from lightning_modules.sampling.devices import Precision
from lightning_modules.sampling.loras import Lora, load_loras
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from portraits.contact_sheet import camera_captions, view_sheet
from portraits.video import write_video

SHEET, VIDEO, VIEWS = "sheet.png", "views.mp4", "views"
OUT = "."  # the folder of a person who is alone


@dataclass(frozen=True)
class NetworkOptions:
    """A model folder, options for loading its networks, and the LoRAs on F."""

    model: str
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True)
class PersonInputs:
    """One person's portraits and, if given, K proxies, as images (S, S); and the `folder` of the results,
    relative to the output folder (`OUT`: the output folder itself)."""

    folder: str
    portraits: list[Image.Image]
    proxies: list[Image.Image] | None = None


@dataclass(frozen=True)
class SharedInputs:
    """Inputs shared by all people: K condition images (S, S) and cameras (K, 25), the settings of sampling
    and the seed, and the videos' frames per second."""

    conditions: list[Image.Image]
    cameras: NDArray[np.float32] | None
    sampling: Sampling
    seed: int
    fps: float


def open_pipeline(networks: NetworkOptions, devices: Sequence[str]) -> DiffPortrait3DPipeline:
    """Load a model onto devices. Raises InputError if it cannot be loaded."""
    pipeline = DiffPortrait3DPipeline.from_pretrained(
        networks.model, dtype=getattr(torch, networks.precision)
    )
    pipeline.to(devices[0]).tune(networks.channels_last, networks.compile)
    load_loras(pipeline, networks.loras)
    return pipeline.replicate(devices[1:])


def synthesize_people(
    pipeline: DiffPortrait3DPipeline,
    people: Sequence[PersonInputs],
    shared: SharedInputs,
    out: Path,
    progress: bool = True,
    on_step_end: StepCallback | None = None,
) -> None:
    """Sample and write everybody's views, one person after the other, with a progress bar.

    `on_step_end` is the pipeline's callback, with all of its tensors.
    """
    for person in tqdm(people, desc="people", unit="person", disable=not progress or len(people) == 1):
        views = sample_views(pipeline, person, shared, progress, on_step_end)
        write_views(out / person.folder, person, shared, views)


def synthesize_on(
    engine: Engine,
    networks: NetworkOptions,
    device_groups: Sequence[Sequence[str]],
    people: Sequence[PersonInputs],
    shared: SharedInputs,
    out: Path,
) -> dict[str, str]:
    """As `synthesize_people`, by the workers of an engine: worker i loads the model onto device group i (on a
    cluster, whose workers see other GPUs, all onto the first). Folders of people appear whole. Returns the
    reason for each that was given up."""
    task = Task(
        "synthesis",
        "people",
        Synthesizer(networks, device_groups, shared, out),
        people,
        noun="person",
        own_bars=True,
    )
    given_up = {
        people[done.index].folder: done.failure for done in engine.run(task) if done.failure is not None
    }
    for name in given_up:
        with exclusive(out / name):
            shutil.rmtree(out / f"{name}{PARTIAL}", ignore_errors=True)
    return given_up


@dataclass(frozen=True)
class Synthesizer:
    """Samples and writes people's views into `out`. A worker loads the model once."""

    networks: NetworkOptions
    device_groups: Sequence[Sequence[str]]
    shared: SharedInputs
    out: Path

    def __call__(self, worker: Worker) -> Callable[[PersonInputs], None]:
        """Load the model onto the worker's devices, and return the function that samples and writes one
        person's views."""
        pipeline = open_pipeline(self.networks, self.device_groups[worker.number])

        def synthesize(person: PersonInputs) -> None:
            views = sample_views(pipeline, person, self.shared, progress=worker.shown)
            if person.folder == OUT:
                write_views(self.out, person, self.shared, views)
                return
            with whole_folder(self.out / person.folder, replace=True) as folder:
                write_views(folder, person, self.shared, views)

        return synthesize


def sample_views(
    pipeline: DiffPortrait3DPipeline,
    person: PersonInputs,
    shared: SharedInputs,
    progress: bool,
    on_step_end: StepCallback | None = None,
) -> list[Image.Image]:
    """The K views of one person, independent of other people."""
    views: Any = pipeline(
        person.portraits,
        cameras=shared.cameras,
        conditions=shared.conditions,
        proxies=person.proxies,
        seed=shared.seed,
        progress=progress,
        callback_on_step_end=on_step_end,
        callback_on_step_end_tensor_inputs=CALLBACK_TENSORS,
        **asdict(shared.sampling),
    )
    return views.images


def write_views(
    folder: Path, person: PersonInputs, shared: SharedInputs, views: Sequence[Image.Image]
) -> None:
    """Write a person's results: portraits, views, a video, and a contact sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, portrait in enumerate(person.portraits):
        portrait.save(folder / f"portrait_{number}.png")
    write_numbered(folder / VIEWS, views)
    write_video(folder / VIDEO, views, shared.fps)
    captions = [f"view {number}" for number in range(len(views))]
    rows: Mapping[str, Sequence[Image.Image] | None] = {
        "conditions": shared.conditions,
        "proxies": person.proxies,
        "views": views,
    }
    view_sheet(
        person.portraits,
        {name: images for name, images in rows.items() if images is not None},
        captions if shared.cameras is None else camera_captions(shared.cameras),
    ).save(folder / SHEET)


def write_numbered(folder: Path, images: Sequence[Image.Image]) -> None:
    """Write `000.png`, `001.png`, … into a folder, over those of a worker that died."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number:03d}.png")
