"""Renderers by the name that a configuration gives. A new one is one function and one line in `RENDERERS`."""

from collections.abc import Callable

from shards.errors import InputError
from shards.renderers.base import Renderer


def _synthetic() -> Renderer:
    from shards.renderers.synthetic_head import SyntheticHead, render_on_threads

    render_on_threads(1)  # a build has a process for every core already
    return SyntheticHead()


RENDERERS: dict[str, Callable[[], Renderer]] = {"synthetic": _synthetic}


def check_renderer(name: str) -> None:
    """Raise InputError unless there is a renderer of this name."""
    if name not in RENDERERS:
        raise InputError(f"--conditions {name}: there is no such renderer; choose of {', '.join(RENDERERS)}")


def open_renderer(name: str) -> Renderer:
    """The renderer of this name, ready for use in one process. Raises InputError for an unknown name."""
    check_renderer(name)
    return RENDERERS[name]()
