"""The plan of `synthesize`: a request resolved and checked before a model is loaded.

K views.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from core.destination import Destination
from core.engine import Engine, EngineOptions
from core.errors import InputError
from core.tensors import read_json
from lightning_modules.sampling.devices import check_precision, group_devices
from lightning_modules.sampling.export_formats import Format, check_formats
from lightning_modules.sampling.loras import Lora, check_loras
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.requests import Request
from lightning_modules.sampling.settings import Sampling, StartingNoise
from lightning_modules.sampling.synthesis import NetworkOptions
from lightning_modules.sampling.trajectories import trajectory
from lightning_modules.sampling.view_conditions import (
    CONDITIONS,
    Cameras,
    ConditionFiles,
    Conditions,
    find_conditions,
)
from lightning_modules.sampling.windows import windows
from portraits.camera_files import read_cameras
from portraits.image_folders import check_count, view_files
from portraits.people import Person, find_people
from portraits.video import check_video

COMMAND = "lightning_modules.synthesize"
SETTINGS, CAMERAS, PROXIES = "settings.json", "cameras.json", "proxies"
log = logging.getLogger(__name__)

RANDOM, AWARE = "random", "3d-aware"
DEFAULT_VIEWS = 24


@dataclass(frozen=True)
class Output:
    """Output settings: the `destination`, replaced if `overwrite`, with a subfolder for each person if
    `person_folders`; the video's frames per second; and the content of `settings.json`."""

    destination: Destination
    overwrite: bool
    person_folders: bool
    fps: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A resolved request.

    Args:
        people: the people to generate views of.
        proxies: each person's proxy images, one for each view; None if not given.
        align: crop portraits as EG3D does.
        cameras: EG3D labels (K, 25); None if only condition images are given.
        conditions: the source of the K condition images.
        sampling: settings of sampling, with the starting noise resolved.
        seed: seed of all noise.
        image_size: the side of all images in pixels.
        networks: the model, and options for loading it.
        device_groups: groups of devices, each of which samples a share of the people; on a cluster, the
            devices of every worker.
        cluster: the cluster whose workers sample people; None for this machine.
        output: output settings.
        export: the 3D formats to write as well.
    """

    people: list[Person]
    proxies: list[list[Path]] | None
    align: bool
    cameras: Cameras | None
    conditions: Conditions
    sampling: Sampling
    seed: int
    image_size: int
    networks: NetworkOptions
    device_groups: list[list[str]]
    cluster: Engine | None
    output: Output
    export: list[Format]


def make_plan(request: Request) -> Plan:
    """Resolve a request, without loading weights. Raises InputError if any part of it is invalid."""
    destination = Destination.of(request.out, request.staging).resolve()
    check_output(destination, request.overwrite)
    check_video()
    people = find_people(request.portrait, request.portraits)
    if request.portraits is not None:
        check_names(people, request.portraits)
    devices = request.devices_for(request.devices, request.device)
    check_precision(request.precision, devices)

    identity = request.seed if request.identity is None else request.identity
    conditions = find_conditions(request.conditions, identity)
    cameras = find_cameras(request, conditions)
    files = conditions.files if isinstance(conditions, ConditionFiles) else None
    views = len(files or ()) if cameras is None else len(cameras)
    if files is not None:
        check_count(files, views, CONDITIONS)
    path = windows(views, request.window, request.overlap)
    proxies = find_proxies(request.noise, people, views)

    model = ModelSummary.read(request.model)
    model.check(request.sampling(None), views)
    loras = tuple(Lora.parse(text) for text in request.lora or ())
    check_loras(loras, model.folder, request.solver)
    noise = starting_noise(request.noise, proxies is not None, cameras is not None, model.has_noise_prior)
    if request.export is not None:
        check_formats(request.export, cameras, model.has_noise_prior, "--export")
    elsewhere = {"staging", *(field.name for field in fields(EngineOptions))}  # views do not depend on them
    chosen = {name: value for name, value in asdict(request).items() if name not in elsewhere}
    settings = {"command": COMMAND, **chosen}
    settings |= {"starting_noise": noise, "image_size": model.image_size}
    return Plan(
        people=people,
        proxies=proxies,
        align=request.align,
        cameras=cameras,
        conditions=conditions,
        sampling=request.sampling(noise),
        seed=request.seed,
        image_size=model.image_size,
        networks=NetworkOptions(
            str(model.folder), request.precision, request.channels_last, request.compile, loras
        ),
        device_groups=group_devices(devices, 1 if request.on_ray else len(people), len(path)),
        output=Output(destination, request.overwrite, request.portraits is not None, request.fps, settings),
        export=request.export or [],
        cluster=request.cluster(),
    )


def check_output(destination: Destination, overwrite: bool) -> None:
    """Raise InputError if a folder or URL exists without `overwrite`, or was not written by `synthesize`."""
    if destination.is_vacant() if destination.url is not None else not destination.folder.exists():
        return
    if not overwrite:
        raise InputError(f"--out {destination}: it exists already; --overwrite replaces it")
    if not written_by_synthesize(destination):
        raise InputError(
            f"--out {destination}: not written by this command, and not replaced; choose another folder"
        )


def written_by_synthesize(destination: Destination) -> bool:
    """Whether a folder or URL has the settings of `synthesize` in it. Raises InputError if they cannot be
    read."""
    if destination.url is None:
        settings = destination.folder / SETTINGS
        return settings.is_file() and read_json(settings).get("command") == COMMAND
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, SETTINGS)
        return destination.fetch(settings) and read_json(settings).get("command") == COMMAND


def check_names(people: Sequence[Person], portraits: str) -> None:
    """Raise InputError if a person's folder would have the name of one of the command's output files."""
    reserved = {CONDITIONS, CAMERAS, SETTINGS}
    for person in people:
        if person.name.casefold() in reserved:
            raise InputError(
                f"--portraits {portraits}: a person cannot be called {person.name}, the name of an output; "
                "rename the photo or folder"
            )


def find_cameras(request: Request, conditions: Conditions) -> Cameras | None:
    """The cameras (K, 25) from the request's files or trajectory; None if it has only condition images.
    Raises InputError if it has both, or they cannot be read."""
    names = ("trajectory", "views", "yaw", "pitch")
    given = [f"--{name}" for name in names if getattr(request, name) is not None]
    if request.cameras is not None:
        if given:
            raise InputError(f"--cameras replaces the trajectory: leave out {', '.join(given)}")
        return read_cameras([Path(file) for file in request.cameras])
    files = conditions.files if isinstance(conditions, ConditionFiles) else ()
    if files and not given:
        return None
    views = request.views if request.views is not None else len(files) or DEFAULT_VIEWS
    return trajectory(request.trajectory or "orbit", views, request.yaw, request.pitch)


def find_proxies(noise: str | None, people: Sequence[Person], views: int) -> list[list[Path]] | None:
    """Each person's proxies if `noise` is a folder of them, or of folders named after people; None if `noise`
    is the name of a starting noise. Raises InputError unless there is one for each view."""
    if noise in (None, RANDOM, AWARE):
        return None
    folder = Path(str(noise))
    if not folder.is_dir():
        raise InputError(f"--noise {noise}: neither {RANDOM}, nor {AWARE}, nor a folder of {PROXIES}")
    folders = [folder / person.name for person in people]
    if len(people) == 1 and not folders[0].is_dir():
        folders = [folder]
    proxies = [view_files(place, PROXIES) for place in folders]
    for files in proxies:
        check_count(files, views, PROXIES)
    return proxies


def starting_noise(name: str | None, proxies: bool, cameras: bool, prior: bool) -> StartingNoise:
    """The starting noise: `name`, or by default 3D-aware noise if there are proxies, or cameras and a noise
    prior, and random noise otherwise. Warns if only the cameras are missing. Raises InputError if 3D-aware
    noise is requested but not possible."""
    possible = proxies or (prior and cameras)
    if name is None and prior and not possible:
        log.warning(
            "the views start from random noise: 3D-aware noise needs the cameras of the condition images"
            " (--cameras); --noise random turns this warning off"
        )
    if name == AWARE and not possible:
        missing = (
            "cameras: --trajectory or --cameras" if prior else "a model with noise_prior/ (S), or proxies"
        )
        raise InputError(f"--noise {AWARE} needs {missing}")
    return "random" if name == RANDOM or not possible else "3d-aware"
