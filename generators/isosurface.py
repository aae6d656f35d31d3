"""Meshes of density fields: marching cubes, vertex colours from views, PLY and GLB files.

Shape letters: M points, N vertices, K views, S image side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from core.files import whole_file
from portraits.cameras import check_labels, project, split_label
from portraits.pixels import Images

Density = Callable[[Tensor], Tensor]
"""Maps world points (M, 3) to densities (M,)."""
Unit = Literal["eg3d", "millimetres"]

UNITS_PER_METRE = 2.7
CHUNK = 1 << 18  # points evaluated at a time
EDGES_PER_PIXEL = 2  # width of a depth buffer's pixel in mesh edges: wide enough to leave no holes
FORMATS = (".ply", ".glb")


@dataclass(frozen=True)
class Surface:
    """A triangle mesh in EG3D's world: vertices (N, 3), faces (F, 3), outward unit normals (N, 3)."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    normals: NDArray[np.float64]


def check_packages() -> None:
    """Raise InputError if packages that meshes need are missing."""
    if not (find_spec("skimage") and find_spec("trimesh")):
        raise InputError("meshes need packages that are missing: pip install '.[mesh]'")


@torch.no_grad()
def extract_surface(density: Density, extent: float, level: float, resolution: int = 128) -> Surface:
    """The largest connected isosurface of `density` at `level`, by marching cubes.

    Args:
        density: the field
        extent: half the side of the sampled cube about the origin, in EG3D's units
        level: the density at the surface, above 0
        resolution: samples along a side of the cube

    The mesh is watertight: space outside the cube is empty. Raises InputError if the field never reaches
    `level`.
    """
    check_packages()
    from skimage.measure import marching_cubes

    side = torch.linspace(-extent, extent, resolution)
    points = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1).view(-1, 3)
    values = torch.cat([density(chunk) for chunk in tqdm(points.split(CHUNK), desc="density", unit="chunk")])
    grid = values.float().cpu().numpy().reshape((resolution,) * 3)
    if not grid.max() > level:
        raise InputError(f"the density is at most {grid.max():.3g}, below the surface's {level:g}: no mesh")
    step = 2 * extent / (resolution - 1)
    closed = np.pad(grid, 1)  # closes surfaces that leave the cube at its border
    vertices, faces, _, _ = marching_cubes(closed, level, gradient_direction="ascent")
    return _largest_part((vertices - 1) * step - extent, faces)


def _largest_part(vertices: ArrayLike, faces: ArrayLike) -> Surface:
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=True)
    part = max(mesh.split(only_watertight=False), key=lambda piece: len(piece.faces))
    trimesh.repair.fix_normals(part)
    return Surface(np.asarray(part.vertices), np.asarray(part.faces), np.asarray(part.vertex_normals))


def colours_from_views(surface: Surface, images: Images, labels: ArrayLike) -> NDArray[np.uint8]:
    """Colours (N, 3) of a surface's vertices from views (K, S, S, 3).

    The colour of a vertex is the mean over the views in which it is visible, weighted by the squared cosine
    between its normal and the viewing direction. A vertex that is visible in no view has the colour of the
    nearest visible one. Raises InputError if no vertex is visible in any view.
    """
    labels = check_labels(labels, "cameras")
    edge = np.linalg.norm(np.diff(surface.vertices[surface.faces[:, :2]], axis=1), axis=-1).mean()
    total = np.zeros((len(surface.vertices), 3))
    weight = np.zeros(len(surface.vertices))
    for image, label in zip(images, labels, strict=True):
        origin = split_label(label)[0][:3, 3]
        towards = origin - surface.vertices
        distance = np.linalg.norm(towards, axis=1)
        facing = np.clip((surface.normals * towards).sum(1) / distance, 0, 1) ** 2
        place = project(surface.vertices, label)
        seen = facing * _unhidden(place, distance, edge, label)
        total += seen[:, None] * _sampled(image, place)
        weight += seen
    known = weight > 1e-6
    if not known.any():
        raise InputError("the surface is visible in no view: cameras and mesh are in different frames")
    colours = np.zeros_like(total)
    colours[known] = total[known] / weight[known, None]
    nearest = cKDTree(surface.vertices[known]).query(surface.vertices[~known])[1] if not known.all() else []
    colours[~known] = colours[known][nearest]
    return np.clip(np.round(colours), 0, 255).astype(np.uint8)


def _unhidden(
    place: NDArray[np.floating], distance: NDArray[np.floating], edge: float, label: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Mask (N,) of the vertices at normalised image coordinates (N, 2) that are inside the image and not
    occluded, by a depth buffer of the vertices."""
    within = ((place > 0) & (place < 1)).all(1)
    focal = float(split_label(label)[1][0, 0])
    side = max(8, int(distance.mean() / (focal * edge * EDGES_PER_PIXEL)))
    pixel = np.clip((place * side).astype(int), 0, side - 1)
    buffer = np.full((side, side), np.inf)
    np.minimum.at(buffer, (pixel[within, 1], pixel[within, 0]), distance[within])
    tolerance = 4 * EDGES_PER_PIXEL * edge  # a slope of 4 within a pixel of the buffer
    return within & (distance < buffer[pixel[:, 1], pixel[:, 0]] + tolerance)


def _sampled(image: NDArray[np.uint8], place: NDArray[np.floating]) -> NDArray[np.float64]:
    """Bilinear samples (N, 3) of an image (S, S, 3) at normalised coordinates (N, 2)."""
    from scipy.ndimage import map_coordinates

    at = (place * len(image) - 0.5).T[::-1]
    channels = [
        map_coordinates(image[..., c].astype(np.float64), at, order=1, mode="nearest") for c in range(3)
    ]
    return np.stack(channels, -1)


def unit_scale(unit: Unit) -> float:
    """How many of `unit` one of EG3D's units is. Raises InputError on another name."""
    if unit not in get_args(Unit):
        raise InputError(f"unit {unit!r}: choose {' or '.join(get_args(Unit))}")
    return 1000 / UNITS_PER_METRE if unit == "millimetres" else 1.0


def write_mesh(surface: Surface, colours: NDArray[np.uint8], path: Path, unit: Unit = "eg3d") -> None:
    """Write a coloured mesh as `.ply` or `.glb`, by the suffix of `path`, with y up and the face looking to
    +z.

    Raises InputError for other suffixes or units.
    """
    import trimesh

    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: names of meshes end in {' or '.join(FORMATS)}")
    scale = unit_scale(unit)
    kind, options = path.suffix.lower()[1:], dict[str, Any]()
    if kind == "glb":
        options = {"tree_postprocessor": _add_material}
        colours = _linear(colours)
    mesh = trimesh.Trimesh(
        surface.vertices * scale,
        surface.faces,
        vertex_normals=surface.normals,
        vertex_colors=np.concatenate([colours, np.full((len(colours), 1), 255, np.uint8)], 1),
        process=False,
    )
    with whole_file(path) as partial:
        data = mesh.export(file_type=kind, **options)
        assert isinstance(data, bytes)
        partial.write_bytes(data)


def _linear(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Linear light of sRGB, in levels: glTF's vertex colours are linear."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return np.round(linear * 255).astype(np.uint8)


def _add_material(tree: dict[str, Any]) -> None:
    """Give a glTF tree an opaque, dull material: the default is a metal, which most viewers show as black."""
    factors = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    tree["materials"] = [{"pbrMetallicRoughness": factors, "alphaMode": "OPAQUE", "doubleSided": True}]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0
