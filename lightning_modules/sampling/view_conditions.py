"""Condition images for F_cam (3.3): images of another person at the target cameras, from files or rendered.

K views, S image side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from core.errors import InputError
from generators.base import Renderer
from generators.registry import RENDERERS, RendererChoice, check_renderer, is_renderer, open_renderer
from portraits.image_folders import read_squares, view_files

CHUNK = 8  # views rendered at a time: the scene is built and the progress bar updated once per chunk
CONDITIONS = "conditions"

Cameras = NDArray[np.float32]
Rendered = Callable[[int, int], None]
"""Called as condition images are rendered, with the number of those done and of all."""


@dataclass(frozen=True)
class ConditionFiles:
    """Condition images in files, one for each view."""

    files: tuple[Path, ...]

    def images(
        self,
        cameras: Cameras | None,  # noqa: ARG002
        size: int,
        on_rendered: Rendered | None = None,  # noqa: ARG002
    ) -> list[Image.Image]:
        """The images (S, S), S = `size`. Raises InputError if one is damaged or not square."""
        return read_squares(self.files, size, CONDITIONS)


@dataclass(frozen=True)
class RenderedConditions:
    """Condition images of the person with the number `identity`, by a renderer."""

    renderer: RendererChoice
    identity: int

    def images(
        self, cameras: Cameras | None, size: int, on_rendered: Rendered | None = None
    ) -> list[Image.Image]:
        """The images (S, S), S = `size`, at cameras (K, 25), with a progress bar. Raises InputError if the
        renderer cannot be opened, or there are no cameras."""
        if cameras is None:
            raise InputError("rendered conditions need cameras: give a trajectory or --cameras")
        renderer = prepare_renderer(self.renderer)
        return render_view_conditions(renderer, self.identity, cameras, size, on_rendered)


Conditions = ConditionFiles | RenderedConditions


def find_conditions(source: RendererChoice, identity: int) -> Conditions:
    """Conditions from `source`, a renderer or a folder of images in the order of the views.

    Raises InputError if it is neither, the folder has no images, or the renderer cannot be opened.
    """
    if not isinstance(source, str) or is_renderer(source):
        check_renderer(source)
        return RenderedConditions(source, identity)
    if not Path(source).is_dir():
        raise InputError(
            f"--conditions {source}: there is no such folder, and the renderers are {', '.join(RENDERERS)}"
        )
    return ConditionFiles(tuple(view_files(Path(source), CONDITIONS)))


def prepare_renderer(choice: RendererChoice) -> Renderer:
    """Open the chosen renderer. Raises InputError if it is unknown or its packages are missing."""
    try:
        return open_renderer(choice)
    except ModuleNotFoundError as error:
        raise InputError(
            f"--conditions {choice}: rendering needs the package {error.name}: pip install -e '.[capture]',"
            " or give a folder of images"
        ) from error


def render_view_conditions(
    renderer: Renderer,
    identity: int,
    cameras: Cameras,
    size: int,
    on_rendered: Rendered | None = None,
) -> list[Image.Image]:
    """Render images (S, S) of the person with the number `identity` at cameras (K, 25), with a progress
    bar."""
    images: list[Image.Image] = []
    with tqdm(total=len(cameras), desc=CONDITIONS, unit="view") as bar:
        for start in range(0, len(cameras), CHUNK):
            chunk = cameras[start : start + CHUNK]
            images += [Image.fromarray(image) for image in renderer.render(identity, chunk, size).images]
            bar.update(len(chunk))
            if on_rendered is not None:
                on_rendered(len(images), len(cameras))
    return images
