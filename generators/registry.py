"""Renderers by the text that a configuration gives: a name, and for generators a folder and options
(`eg3d:FOLDER?truncation=0.7&seed=1`). A new one is one class of two functions and one line in `RENDERERS`."""

from dataclasses import dataclass
from typing import Protocol

from core.errors import InputError
from core.workers import this_worker
from generators.base import Renderer
from generators.gan.architecture import Kind


class Entry(Protocol):
    """A kind of renderer. `rest` is what stands behind the colon of its text, nothing without one."""

    def check(self, rest: str) -> None:
        """Raise InputError where it cannot be opened; quick."""

    def processes(self, device: str | None) -> int | None:
        """How many of a build's processes suit it on a device (None: any); None for one a core."""

    def open(self, rest: str, device: str | None) -> Renderer:
        """Open it for use in one process. Raises InputError."""


class _Synthetic:
    def check(self, rest: str) -> None:
        if rest:
            raise InputError(f"--conditions synthetic:{rest}: the built-in head takes no options")

    def processes(self, device: str | None) -> int | None:  # noqa: ARG002
        return None

    def open(self, rest: str, device: str | None) -> Renderer:  # noqa: ARG002
        from generators.parametric.renderer import SyntheticHead, render_on_threads

        render_on_threads(this_worker().threads())
        return SyntheticHead()


@dataclass(frozen=True)
class _Generated:
    """A 3D GAN; torch is imported where one is asked for."""

    kind: Kind

    def check(self, rest: str) -> None:
        from generators.gan.options import parse_options

        parse_options(self.kind, rest).check()

    def processes(self, device: str | None) -> int | None:
        from generators.gan.renderer import gpu_processes

        return gpu_processes(device)

    def open(self, rest: str, device: str | None) -> Renderer:
        from generators.gan.options import parse_options
        from generators.gan.renderer import GeneratedHead

        return GeneratedHead(parse_options(self.kind, rest), device)


RENDERERS: dict[str, Entry] = {
    "synthetic": _Synthetic(),
    "eg3d": _Generated("eg3d"),
    "panohead": _Generated("panohead"),
}


def is_renderer(text: str) -> bool:
    """Whether a text names a renderer, as opposed to, say, a folder of images."""
    return text.partition(":")[0] in RENDERERS


def check_renderer(text: str) -> None:
    """Raise InputError unless there is a renderer of this text."""
    _entry(text).check(text.partition(":")[2])


def renderer_processes(text: str, device: str | None = None) -> int | None:
    """How many of a build's processes suit the renderer of this text on a device (None: any); None for one a
    core."""
    return _entry(text).processes(device)


def open_renderer(text: str, device: str | None = None) -> Renderer:
    """The renderer of this text, ready for use in one process; generators run on `device`, by default on a
    GPU if there is one. Raises InputError where there is none."""
    check_renderer(text)
    return _entry(text).open(text.partition(":")[2], device)


def _entry(text: str) -> Entry:
    name = text.partition(":")[0]
    if name not in RENDERERS:
        raise InputError(f"--conditions {text}: there is no such renderer; choose of {', '.join(RENDERERS)}")
    return RENDERERS[name]
