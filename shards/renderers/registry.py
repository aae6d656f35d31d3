"""Renderers by the text that a configuration gives: a name, and for generators a folder and options
(`eg3d:FOLDER?truncation=0.7&seed=1`). A new one is one class of two functions and one line in `RENDERERS`."""

from dataclasses import dataclass
from typing import Protocol

from shards.errors import InputError
from shards.renderers.base import Renderer
from shards.renderers.gan.architecture import Kind


class Entry(Protocol):
    """A kind of renderer. `rest` is what stands behind the colon of its text, nothing without one."""

    def check(self, rest: str) -> None:
        """Raise InputError where it cannot be opened; quick."""

    def open(self, rest: str) -> Renderer:
        """Open it for use in one process. Raises InputError."""


class _Synthetic:
    def check(self, rest: str) -> None:
        if rest:
            raise InputError(f"--conditions synthetic:{rest}: the built-in head takes no options")

    def open(self, rest: str) -> Renderer:  # noqa: ARG002
        from shards.renderers.synthetic_head import SyntheticHead, render_on_threads

        render_on_threads(1)  # a build has a process for every core already
        return SyntheticHead()


@dataclass(frozen=True)
class _Generated:
    """A 3D GAN; torch is imported where one is asked for."""

    kind: Kind

    def check(self, rest: str) -> None:
        from shards.renderers.gan.options import parse_options

        parse_options(self.kind, rest).check()

    def open(self, rest: str) -> Renderer:
        from shards.renderers.gan.options import parse_options
        from shards.renderers.generated import GeneratedHead

        return GeneratedHead(parse_options(self.kind, rest))


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


def open_renderer(text: str) -> Renderer:
    """The renderer of this text, ready for use in one process. Raises InputError where there is none."""
    check_renderer(text)
    return _entry(text).open(text.partition(":")[2])


def _entry(text: str) -> Entry:
    name = text.partition(":")[0]
    if name not in RENDERERS:
        raise InputError(f"--conditions {text}: there is no such renderer; choose of {', '.join(RENDERERS)}")
    return RENDERERS[name]
