"""Choice of the renderer of condition images, R(v, z), by name or by a GAN's options.

`studio`, `synthetic` and `baked` are the built-in renderer: people in a plain studio; people indoors and
outdoors, with paths traced for each image; and the same with light baked into a person once, so that many
cameras are cheap, as they are in the studio. `eg3d:FOLDER` and `panohead:FOLDER` are a GAN with default
options; `GeneratorOptions` is a GAN with any options, on the command line `--conditions.folder FOLDER
--conditions.truncation 0.5`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from core.errors import InputError
from core.fingerprints import of_folder
from core.workers import ONLY_WORKER, Worker
from generators.base import Light, Place, Renderer
from generators.gan.architecture import Kind
from generators.gan.options import GeneratorOptions

RendererChoice = GeneratorOptions | str

STUDIO, SYNTHETIC, BAKED = "studio", "synthetic", "baked"
BUILT_IN: dict[str, tuple[Place, Light]] = {
    STUDIO: ("studio", "baked"),
    SYNTHETIC: ("anywhere", "traced"),
    BAKED: ("anywhere", "baked"),
}
KINDS: tuple[Kind, ...] = get_args(Kind)
RENDERERS = (*BUILT_IN, *(f"{kind}:FOLDER" for kind in KINDS))


def is_renderer(choice: RendererChoice) -> bool:
    """Whether a setting chooses a renderer, and not, for example, a folder of images."""
    return not isinstance(choice, str) or choice.partition(":")[0] in (*BUILT_IN, *KINDS)


def check_renderer(choice: RendererChoice) -> None:
    """Raise InputError if the renderer cannot be opened. Reads no weights."""
    if (options := _options(choice)) is not None:
        options.check(_named_kind(choice))


def renderer_processes(choice: RendererChoice, device: str | None = None) -> int | None:
    """The suitable number of worker processes on a device (None for all): for a GAN one per GPU; None for one
    per core."""
    if _options(choice) is None:
        return None
    from generators.gan.renderer import gpu_processes  # imports torch

    return gpu_processes(device)


def open_renderer(
    choice: RendererChoice, device: str | None = None, worker: Worker = ONLY_WORKER
) -> Renderer:
    """Open the renderer in the process of `worker`.

    A GAN runs on `device`, by default the worker's GPU, or the CPU if there is none. Raises InputError if it
    cannot be opened."""
    check_renderer(choice)
    options = _options(choice)
    if options is None:
        from generators.parametric.renderer import SyntheticHead, render_on_threads  # imports Mitsuba

        render_on_threads(worker.threads())
        place, light = BUILT_IN[str(choice)]
        return SyntheticHead(place=place, light=light)
    from generators.gan.renderer import GeneratedHead  # imports torch

    return GeneratedHead(options, device, worker)


def renderer_record(choice: RendererChoice) -> str | dict[str, Any]:
    """The renderer's identity for metadata, as JSON: its name, or a GAN's options and the fingerprint of its
    folder. Raises InputError."""
    options = _options(choice)
    if options is None:
        return str(choice)
    return {"kind": options.kind, **asdict(options), "fingerprint": of_folder(Path(options.folder))}


def _options(choice: RendererChoice) -> GeneratorOptions | None:
    """A GAN's options; None for the built-in renderer. Raises InputError for other choices."""
    if not isinstance(choice, str):
        return choice
    name, _, folder = choice.partition(":")
    if name in BUILT_IN:
        if folder:
            raise InputError(f"--conditions {choice}: the built-in renderer has no options")
        return None
    if name not in KINDS:
        raise InputError(
            f"--conditions {choice}: there is no such renderer; choose from {', '.join(RENDERERS)}"
        )
    if not folder:
        raise InputError(f"--conditions {choice}: {name} needs a generator folder: {name}:FOLDER")
    if "?" in folder and not Path(folder).exists():
        raise InputError(
            f"--conditions {choice}: give options as --conditions.folder {folder.partition('?')[0]} "
            "--conditions.truncation 0.7, …"
        )
    return GeneratorOptions(folder)


def _named_kind(choice: RendererChoice) -> Kind | None:
    """The kind of GAN in a choice such as `eg3d:FOLDER`; None for other choices."""
    if not isinstance(choice, str):
        return None
    return next(kind for kind in KINDS if kind == choice.partition(":")[0])
