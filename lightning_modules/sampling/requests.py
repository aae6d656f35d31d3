"""What somebody asks of `synthesize`, checked before anything expensive. K views, S image side."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from generators.registry import RendererChoice
from lightning_modules.sampling.ddim import scheduler_for
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling, StartingNoise
from lightning_modules.sampling.trajectories import trajectory
from lightning_modules.sampling.view_conditions import (
    CONDITIONS,
    find_conditions,
    prepare_renderer,
    read_conditions,
    render_view_conditions,
)
from lightning_modules.sampling.windows import Window, windows
from portraits.camera_files import read_cameras
from portraits.image_folders import check_count, view_files
from portraits.people import Person

Cameras = NDArray[np.float32]
Precision = Literal["float32", "float16", "bfloat16"]
RANDOM, AWARE = "random", "3d-aware"
PROXIES = "proxies"
VIEWS = 24


@dataclass(frozen=True)
class Request:
    """New views of the people on portraits.

    Args:
        model: a model folder
        out: the folder for the results
        portrait: one or more photos of one person
        portraits: a folder: a person for each photo, and for each folder of photos, in it
        align: crop portraits as EG3D does; otherwise take their middle square
        trajectory: orbit, yaw_sweep, pitch_sweep or spiral; orbit where nothing else says the cameras
        views: how many cameras the trajectory has; 24, or as many as there are conditions
        yaw: the trajectory's amplitude sideways in degrees, instead of its own
        pitch: the trajectory's amplitude up and down in degrees, instead of its own
        cameras: instead of a trajectory, files of EG3D labels (.json, .npy) or photos that have their poses
        conditions: the renderer of the condition images (synthetic, eg3d:FOLDER, panohead:FOLDER, or a GAN's
            options), or a folder of one image for each view
        identity: the number of the person whom the renderer shows; the seed where none is given
        noise: random, 3d-aware, or a folder of proxy images; 3d-aware where the model can
        strength: of 3d-aware noise, 1 as in the paper; below it more of the proxies stays
        steps: denoising steps; the paper takes 100
        guidance: the weight of classifier-free guidance; 1 for none
        eta: DDIM's share of fresh noise at each step, 0 to 1
        seed: of all noise; the same seed gives the same views
        window: how many views of a path the networks see at a time
        overlap: how many views neighbouring windows of a longer path share; half a window unless given
        chunk: how many images the VAE and the noise prior take at a time
        fps: views a second of the video
        precision: of the networks
        channels_last: the networks in channels-last memory
        compile: the networks through torch.compile, which takes minutes first
        devices: how many GPUs people are split over, and windows of a path where people are fewer; all
            unless given; without a GPU so many times the CPU
        overwrite: replace what an earlier run has left in the output folder
    """

    model: str
    out: str
    portrait: list[str] | None = None
    portraits: str | None = None
    align: bool = True
    trajectory: str | None = None
    views: int | None = None
    yaw: float | None = None
    pitch: float | None = None
    cameras: list[str] | None = None
    conditions: RendererChoice = "synthetic"
    identity: int | None = None
    noise: str | None = None
    strength: float = Sampling.strength
    steps: int = Sampling.steps
    guidance: float = Sampling.guidance
    eta: float = Sampling.eta
    seed: int = 0
    window: int = Sampling.window
    overlap: int | None = Sampling.overlap
    chunk: int = Sampling.chunk
    fps: float = 12.0
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    devices: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        at_least = {"fps": 0.1, "seed": 0, "identity": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not least <= value < np.inf:
                raise InputError(f"--{name} {value:g}: give {least:g} or more")
        self.sampling(None)

    def sampling(self, noise: StartingNoise | None) -> Sampling:
        """How the pipeline samples."""
        own = {field.name: getattr(self, field.name) for field in fields(Sampling) if field.name != "noise"}
        return Sampling(noise=noise, **own)


@dataclass(frozen=True)
class ViewPlan:
    """The K views asked for: their `cameras` (K, 25), None where only images say them; and the files of their
    `conditions`, None where they are rendered."""

    cameras: Cameras | None
    conditions: list[Path] | None

    def __len__(self) -> int:
        return len(self.conditions or ()) if self.cameras is None else len(self.cameras)

    def windows(self, request: Request) -> list[Window]:
        """The windows that the networks see the views in. Raises InputError where the numbers do not fit."""
        return windows(len(self), request.window, request.overlap)


def plan_views(request: Request) -> ViewPlan:
    """The views that a request asks for, all its files found and its cameras read.

    Raises InputError where cameras or conditions cannot be had, are not as many as each other, or do not fit
    into windows.
    """
    conditions = find_conditions(request.conditions)
    plan = ViewPlan(_cameras(request, conditions), conditions)
    if plan.cameras is not None and conditions is not None:
        check_count(conditions, len(plan.cameras), CONDITIONS)
    plan.windows(request)
    return plan


def _cameras(request: Request, conditions: list[Path] | None) -> Cameras | None:
    path = ("trajectory", "views", "yaw", "pitch")
    given = [f"--{name}" for name in path if getattr(request, name) is not None]
    if request.cameras is not None:
        if given:
            raise InputError(f"--cameras says where they are: leave out {', '.join(given)}")
        return read_cameras([Path(file) for file in request.cameras])
    if conditions is not None and not given:
        return None
    views = request.views if request.views is not None else len(conditions or ()) or VIEWS
    return trajectory(request.trajectory or "orbit", views, request.yaw, request.pitch)


def find_proxies(noise: str | None, people: Sequence[Person], views: int) -> list[list[Path]] | None:
    """Each person's proxies, where `noise` is a folder of them or has a folder named as each person; None
    where it is a word. Raises InputError where they are not one for each view."""
    if noise in (None, RANDOM, AWARE):
        return None
    folder = Path(str(noise))
    if not folder.is_dir():
        raise InputError(f"--noise {noise}: it is neither {RANDOM}, nor {AWARE}, nor a folder of {PROXIES}")
    own = [folder / person.name for person in people]
    if len(people) == 1 and not own[0].is_dir():
        own = [folder]
    files = [view_files(place, PROXIES) for place in own]
    for some in files:
        check_count(some, views, PROXIES)
    return files


def starting_noise(word: str | None, proxies: bool, cameras: bool, prior: bool) -> StartingNoise:
    """Where sampling starts: as `word` says or, where it says nothing, from 3D-aware noise if there are
    proxies, or cameras and a noise prior. Raises InputError where it cannot start so."""
    able = proxies or (prior and cameras)
    if word == AWARE and not able:
        lacking = (
            "cameras: --trajectory or --cameras" if prior else "a model with noise_prior/ (S), or proxies"
        )
        raise InputError(f"--noise {AWARE} takes {lacking}")
    return "random" if word == RANDOM or not able else "3d-aware"


def check_model(pipeline: DiffPortrait3DPipeline, request: Request, views: int) -> None:
    """Raise InputError where a model cannot follow conditions, or not sample as a request says."""
    if pipeline.view_control is None:
        raise InputError(
            f"--model {request.model}: it has no view_control/ (F_cam), and its views would follow no camera"
        )
    scheduler_for(pipeline.scheduler, request.steps)
    if pipeline.cross_view is not None:
        pipeline.cross_view.check_views(min(request.window, views))


def make_conditions(request: Request, plan: ViewPlan, size: int) -> list[Image.Image]:
    """The condition images (S, S) of a plan, read or rendered. Raises InputError."""
    if plan.conditions is not None:
        return read_conditions(plan.conditions, size)
    identity = request.seed if request.identity is None else request.identity
    renderer = prepare_renderer(request.conditions)
    return render_view_conditions(renderer, identity, plan.cameras, size)
