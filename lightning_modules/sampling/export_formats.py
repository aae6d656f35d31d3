"""The 3D formats in which generated views are exported, and what each of them requires."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from generators.isosurface import check_packages
from generators.splats.fit import held_out
from portraits.scene_formats import gltf_intrinsics, pixel_intrinsics

Format = Literal["nerfstudio", "colmap", "gltf", "ply", "glb", "splat"]
MESHES = ("ply", "glb")
SPLAT = "splat"
NEED_PRIOR = (*MESHES, SPLAT)
LEAST_VIEWS = 2


def check_formats(
    formats: Sequence[Format], cameras: NDArray[np.float32] | None, prior: bool, where: str
) -> None:
    """Raise InputError, which begins with `where`, unless views at `cameras` (K, 25) can be written in these
    formats, by a model that has S if `prior`."""
    if not formats:
        raise InputError(f"{where}: no format is given")
    if cameras is None:
        raise InputError(
            f"{where}: its views have no cameras, as they were made from condition images alone; give "
            "`synthesize` --cameras or --trajectory"
        )
    if len(cameras) < LEAST_VIEWS:
        raise InputError(f"{where}: {len(cameras)} view; {LEAST_VIEWS} or more are needed")
    pixel_intrinsics(cameras, 1)
    if "gltf" in formats:
        gltf_intrinsics(cameras)
    wanted = [name for name in NEED_PRIOR if name in formats]
    if wanted and not prior:
        raise InputError(
            f"{where}: {', '.join(wanted)} need a model with S (noise_prior/), as they use its density"
        )
    if wanted:
        check_packages()
    if SPLAT in formats:
        held_out(len(cameras))
