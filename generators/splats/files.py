"""Splat files: the `.ply` of Kerbl et al. (2023), which splat viewers open.

Colours are the constant of spherical harmonics (degree 0); scales are logarithms, opacities logits,
rotations quaternions w, x, y, z.
"""

import math
from pathlib import Path

import numpy as np
import torch

from core.files import write_bytes
from generators.isosurface import Unit, unit_scale
from generators.splats.gaussians import Gaussians

CONSTANT = 0.28209479177387814  # the spherical harmonic of degree 0
MIDDLE = 0.5  # the colour at a coefficient of 0
PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *(f"f_dc_{channel}" for channel in range(3)),
    "opacity",
    *(f"scale_{axis}" for axis in range(3)),
    *(f"rot_{part}" for part in range(4)),
)


def write_splats(gaussians: Gaussians, path: Path, unit: Unit = "eg3d") -> None:
    """Write Gaussians as a binary splat `.ply`, y down and the face looking to -z, as viewers expect of files
    that were trained on COLMAP's cameras. Raises InputError on another unit."""
    scale = unit_scale(unit)
    values = gaussians.detach()
    w, x, y, z = torch.nn.functional.normalize(values.rotations, dim=1).unbind(1)
    columns = [
        values.means * values.means.new_tensor([1.0, -1.0, -1.0]) * scale,
        torch.zeros_like(values.means),
        (values.colours - MIDDLE) / CONSTANT,
        values.opacity_logits.unsqueeze(1),
        values.log_scales + math.log(scale),
        torch.stack([-x, w, -z, y], 1),  # a half turn around x, after the Gaussian's own rotation
    ]
    table = torch.cat(columns, 1).cpu().numpy().astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [*(f"property float {name}" for name in PROPERTIES), "end_header"]
    write_bytes(path, ("\n".join(header) + "\n").encode("ascii") + np.ascontiguousarray(table).tobytes())
