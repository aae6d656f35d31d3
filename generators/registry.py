"""Renderers of condition images, R(v, z), by the setting that chooses one: a name, or a GAN's options.

`synthetic` is the built-in head. `eg3d:FOLDER` and `panohead:FOLDER` are a GAN with default options, and
`GeneratorOptions` is one with any: on the command line, `--conditions.folder FOLDER --conditions.truncation
0.5`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from core.errors import InputError
from core.fingerprints import of_folder
from core.workers import ONLY_WORKER, Worker
from generators.base import Renderer
from generators.gan.architecture import Kind
from generators.gan.options import GeneratorOptions

RendererChoice = GeneratorOptions | str

SYNTHETIC = "synthetic"
KINDS: tuple[Kind, ...] = get_args(Kind)
RENDERERS = (SYNTHETIC, *(f"{kind}:FOLDER" for kind in KINDS))


def is_renderer(choice: RendererChoice) -> bool:
    """Whether a setting chooses a renderer, as opposed to, say, a folder of images."""
    return not isinstance(choice, str) or choice.partition(":")[0] in (SYNTHETIC, *KINDS)


def check_renderer(choice: RendererChoice) -> None:
    """Raise InputError unless the renderer can be opened; reads no weights."""
    if (options := _options(choice)) is not None:
        options.check(_named_kind(choice))


def renderer_processes(choice: RendererChoice, device: str | None = None) -> int | None:
    """How many worker processes suit the renderer on a device (None: any): one a GPU for a GAN, None for one
    a core."""
    if _options(choice) is None:
        return None
    from generators.gan.renderer import gpu_processes  # imports torch

    return gpu_processes(device)


def open_renderer(
    choice: RendererChoice, device: str | None = None, worker: Worker = ONLY_WORKER
) -> Renderer:
    """The renderer, ready for use in the process of `worker`.

    A GAN runs on `device`, by default on the worker's GPU, or on the CPU of a machine without one. Raises
    InputError where it cannot be opened."""
    check_renderer(choice)
    options = _options(choice)
    if options is None:
        from generators.parametric.renderer import SyntheticHead, render_on_threads  # imports Mitsuba

        render_on_threads(worker.threads())
        return SyntheticHead()
    from generators.gan.renderer import GeneratedHead  # imports torch

    return GeneratedHead(options, device, worker)


def renderer_record(choice: RendererChoice) -> str | dict[str, Any]:
    """What the renderer's images depend on, as JSON: its name, or a GAN's options and the fingerprint of
    its folder. Raises InputError."""
    options = _options(choice)
    if options is None:
        return SYNTHETIC
    return {"kind": options.kind, **asdict(options), "fingerprint": of_folder(Path(options.folder))}


def _options(choice: RendererChoice) -> GeneratorOptions | None:
    """A GAN's options; None for the built-in head. Raises InputError for what is neither."""
    if not isinstance(choice, str):
        return choice
    name, _, folder = choice.partition(":")
    if name == SYNTHETIC:
        if folder:
            raise InputError(f"--conditions {choice}: the built-in head takes no options")
        return None
    if name not in KINDS:
        raise InputError(
            f"--conditions {choice}: there is no such renderer; choose of {', '.join(RENDERERS)}"
        )
    if not folder:
        raise InputError(f"--conditions {choice}: {name} takes a generator's folder, {name}:FOLDER")
    if "?" in folder and not Path(folder).exists():
        raise InputError(
            f"--conditions {choice}: give options as --conditions.folder {folder.partition('?')[0]} "
            "--conditions.truncation 0.7, …"
        )
    return GeneratorOptions(folder)


def _named_kind(choice: RendererChoice) -> Kind | None:
    """The kind that a short form names."""
    if not isinstance(choice, str):
        return None
    return next(kind for kind in KINDS if kind == choice.partition(":")[0])
