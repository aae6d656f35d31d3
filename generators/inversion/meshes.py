"""Meshes of inverted portraits: the density of the tuned EG3D or PanoHead, coloured from its own views.

Shape letters: K views, S image side, M points.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import InputError
from core.schema import STRICT
from generators.gan.renderer import GeneratedHead
from generators.inversion.pivotal import Inverted
from generators.isosurface import (
    Surface,
    Unit,
    check_packages,
    colours_from_views,
    extract_surface,
    write_mesh,
)
from generators.volume import density
from portraits.alignment.head import HeadFrame
from portraits.pixels import Images

MeshFormat = Literal["ply", "glb"]


@dataclass(frozen=True)
class MeshOptions:
    """Meshes of inverted portraits.

    Args:
        formats: ply, glb, or none
        level: the density at the surface, per unit of the generator's world; EG3D's own scripts use 10 before
            the activation, which is 9 after it
        resolution: samples of the density along a side of the generator's cube
        unit: unit of the meshes; there are about 2.7 of EG3D's units to the metre
    """

    __pydantic_config__: ClassVar = STRICT

    formats: list[MeshFormat] = field(default_factory=list)
    level: float = 9.0
    resolution: int = 128
    unit: Unit = "eg3d"

    def check(self) -> None:
        """Raise InputError on values out of range, or if packages are missing."""
        if self.resolution < 8 or not self.level > 0:
            given = f"--mesh.resolution {self.resolution} --mesh.level {self.level:g}"
            raise InputError(f"{given}: give at least 8, and a level above 0")
        if self.formats:
            check_packages()


@torch.no_grad()
def head_surface(head: GeneratedHead, inverted: Inverted, level: float, resolution: int) -> Surface:
    """The surface of an inverted portrait, in the world of EG3D labels.

    Raises InputError if the density does not reach `level`.
    """
    generator = inverted.generator
    planes = generator.identity(inverted.styles).planes

    def values(points: Tensor) -> Tensor:
        raw = generator.field(planes, points.to(planes)[None, None])[1]
        return density(raw[0, 0]).cpu()

    return in_shared_world(extract_surface(values, generator.settings.box / 2, level, resolution), head.frame)


def in_shared_world(surface: Surface, frame: HeadFrame | None) -> Surface:
    """A surface in a generator's world in that of EG3D labels; unchanged without a frame of its head."""
    if frame is None:
        return surface
    return replace(
        surface,
        vertices=frame.canonical(surface.vertices).astype(np.float64),
        normals=surface.normals @ frame.rotation.T,
    )


def write_meshes(
    head: GeneratedHead,
    inverted: Inverted,
    images: Images,
    cameras: NDArray,
    options: MeshOptions,
    folder: Path,
) -> None:
    """Write `head.ply` and `head.glb`, as the options ask, coloured from views (K, S, S, 3) at labels
    (K, 25)."""
    if not options.formats:
        return
    surface = head_surface(head, inverted, options.level, options.resolution)
    colours = colours_from_views(surface, images, cameras)
    for name in options.formats:
        write_mesh(surface, colours, folder / f"head.{name}", options.unit)
