"""Hair as clumps of tapered ribbons, rooted on the template's scalp and following the head.

A style is a few numbers: the same procedure generates a buzz cut, a bob, curls and a beard.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from generators.parametric.anatomy import Array, Indices, Mesh, anatomy, vertex_normals
from generators.parametric.appearance import beard_region, eye_centre, hairline

STEPS = 9


@dataclass(frozen=True)
class HairStyle:
    """Parameters of a hair style. Lengths are in metres on the template."""

    length: float  # of the longest clumps
    sides: float  # length at the sides and the nape, as a share
    lift: float  # distance of clumps from the scalp
    curl: float  # amplitude of the wave, relative to the clump's width
    parting: float  # x of the parting in metres
    fringe: float  # 0: combed back, 1: falls over the forehead
    density: float  # share of the scalp that grows hair, 0 to 1
    receding: float  # metres by which the hairline is moved back
    beard: float  # length of the beard, 0 for none
    clumps: int = 1800
    width: float = 0.0058
    beard_clumps: int = 900
    beard_width: float = 0.0022
    tip: float = 0.3  # width of a clump's tip, as a share of its own

    @property
    def bald(self) -> bool:
        """Whether there is no hair on the scalp; there may still be a beard."""
        return self.density <= 0


def cover(positions: Array, style: HairStyle) -> Array:
    """Share in [0, 1] of the hair's colour on the scalp at positions (..., 3) relative to the point between
    the eyes."""
    if style.bald:
        return np.zeros(positions.shape[:-1])
    front = np.clip(-positions[..., 1] / 0.06, 0, 1)
    return np.clip((hairline(positions) - style.receding * front) / 0.006, 0, 1) * min(
        1.0, 0.5 + style.density
    )


def grow(
    style: HairStyle, vertices: Array, canonical: tuple[float, Array, Array], rng: np.random.Generator
) -> Mesh | None:
    """Generate the hair's mesh in the canonical frame from all of Anny's vertices (metres); None for a style
    without hair."""
    body = anatomy()
    skin = body.skin
    normals = vertex_normals(vertices, skin)
    centroids = body.template[skin].mean(1) - eye_centre()
    pieces: list[tuple[Array, Array]] = []
    if not style.bald:
        front = np.clip(-centroids[:, 1] / 0.06, 0, 1)
        weight = (hairline(centroids) - style.receding * front > -0.002) * (centroids[:, 2] > -0.075)
        pieces.append(_clumps(style, style.clumps, weight, vertices, normals, rng))
    if style.beard > 0:
        shaped = replace(style, length=style.beard, sides=1, lift=0.35, curl=0.2, fringe=1)
        weight = beard_region(centroids) * (centroids[:, 1] < 0.06)
        pieces.append(_clumps(shaped, style.beard_clumps, weight, vertices, normals, rng, falling=True))
    if not pieces:
        return None
    paths = np.concatenate([piece[0] for piece in pieces])
    outward = np.concatenate([piece[1] for piece in pieces])
    widths = np.concatenate([np.full(len(p), w) for (p, _), w in zip(pieces, _widths(style), strict=False)])
    mesh = _ribbons(paths, outward, widths, style.tip, rng)
    scale, rotation, translation = canonical
    return Mesh(scale * mesh.vertices @ rotation.T + translation, mesh.normals @ rotation.T, mesh.faces)


def _widths(style: HairStyle) -> list[float]:
    return [w for w, there in ((style.width, not style.bald), (style.beard_width, style.beard > 0)) if there]


def _clumps(
    style: HairStyle,
    count: int,
    weight: Array,
    vertices: Array,
    normals: Array,
    rng: np.random.Generator,
    falling: bool = False,
) -> tuple[Array, Array]:
    """Centre lines (count, STEPS, 3) and outward normals (count, STEPS, 3), in Anny's frame and metres."""
    body = anatomy()
    a, b, c = (body.template[body.skin[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) * weight
    chosen = rng.choice(len(area), size=count, p=area / area.sum())
    mix = rng.dirichlet((1, 1, 1), size=count)[..., None]
    corner = body.skin[chosen]
    root = (vertices[corner] * mix).sum(1)
    normal = _unit((normals[corner] * mix).sum(1))
    place = (body.template[corner] * mix).sum(1) - eye_centre()
    length = _lengths(style, place, rng)
    comb = np.broadcast_to((0.0, -0.3, -1.0), root.shape) if falling else _combing(style, place)
    scalp = np.unique(body.skin)
    tree = cKDTree(vertices[scalp])
    path, outward = [root], [normal]
    eyes = vertices[np.concatenate([body.eye("left"), body.eye("right")])].mean(0)
    phase, direction = rng.uniform(0, 2 * np.pi, (count, 1)), _unit(normal * (0.4 + style.lift) + comb)
    wild = rng.standard_normal((count, 3)) * 0.18
    layer = rng.uniform(0.0015, 0.007 + 0.022 * style.lift, (count, 1))
    step = length[:, None] / (STEPS - 1)
    for i in range(1, STEPS):
        share = i / (STEPS - 1)
        gravity = np.array([0.0, 0.0, -1.0]) * (0.2 + 1.6 * share) * min(2.0, style.length / 0.06)
        side = np.cross(direction, outward[-1])
        wave = style.curl * np.sin(phase + i * 1.9) * side
        direction = _unit(
            0.9 * direction + 0.35 * comb * (1 - share) + gravity * 0.5 + 0.4 * wave + wild * 0.25
        )
        point = path[-1] + step * direction
        near = scalp[tree.query(point)[1]]
        depth = ((point - vertices[near]) * normals[near]).sum(1, keepdims=True)
        room = np.minimum(layer, 0.0015 + step * i)
        point = point + normals[near] * np.clip(room - depth, 0, 0.02)
        if not falling:
            point = _off_the_face(point, eyes, style)
        path.append(point)
        outward.append(_unit(0.6 * outward[-1] + 0.4 * normals[near]))
    return np.stack(path, axis=1), np.stack(outward, axis=1)


def _off_the_face(points: Array, eyes: Array, style: HairStyle) -> Array:
    """Move points (N, 3) in front of the face aside, behind the line of the temples, the further the lower
    they are. `eyes` is the point between the person's eyes."""
    x, y, z = (points - eyes).T
    half = np.interp(
        z, [-0.12, -0.06, 0.0, 0.035, 0.06], [0.060, 0.060, 0.056, 0.040 * (1 - style.fringe), 0.0]
    )
    before = np.clip((0.012 - y) / 0.02, 0, 1)
    side = np.where(x >= style.parting, 1.0, -1.0)
    aside = np.maximum(np.abs(x), half) * np.where(np.abs(x) < half, side, np.sign(x))
    hanging = np.clip((0.040 - z) / 0.02, 0, 1)
    moved = points.copy()
    moved[:, 0] += (aside - x) * before
    moved[:, 1] += hanging * np.clip(0.040 - y, 0, None)
    return moved


def _lengths(style: HairStyle, place: Array, rng: np.random.Generator) -> Array:
    """Lengths of the clumps rooted at `place` (N, 3): full on the crown, a share of it at the sides, and
    shorter where they would fall over the face."""
    upper = np.clip((place[:, 2] - 0.02) / 0.05, 0, 1)
    length = style.length * (style.sides + (1 - style.sides) * upper)
    frontal = np.clip((-place[:, 1] - 0.002) / 0.02, 0, 1) * (np.abs(place[:, 0]) < 0.05)
    short = np.minimum(length, 0.012 + 0.035 * style.fringe)
    length = np.where(style.fringe > 0.35, length * (1 - frontal) + short * frontal, length)
    return np.maximum(length * rng.uniform(0.75, 1.05, len(place)), 0.004)


def _combing(style: HairStyle, place: Array) -> Array:
    """Combing directions (N, 3) at `place`: away from the parting, then back or forward."""
    away = np.tanh((place[:, 0] - style.parting) / 0.02)
    forward = (2 * style.fringe - 1) * np.clip((0.03 - place[:, 1]) / 0.06, 0, 1)
    back = np.clip((place[:, 1] - 0.03) / 0.08, 0, 1)
    return _unit(np.stack([away * 0.9, back - forward, -0.55 * np.ones_like(away)], axis=1))


def _ribbons(paths: Array, outward: Array, widths: Array, tip: float, rng: np.random.Generator) -> Mesh:
    """Ribbons along paths, with two vertices a step; `widths` (N,) at the roots, `tip` times that at the
    ends."""
    count = len(paths)
    tangent = np.gradient(paths, axis=1)
    across = _unit(np.cross(tangent, outward) + rng.standard_normal((count, 1, 3)) * 0.004)
    taper = np.interp(np.linspace(0, 1, STEPS), [0, 0.15, 0.6, 1], [0.7, 1.0, 0.9, tip])
    half = across * (widths[:, None] * rng.uniform(0.6, 1.3, (count, 1)) * taper)[..., None] / 2
    vertices = np.stack([paths - half, paths + half], axis=2).reshape(-1, 3)
    normals = np.stack([_unit(outward - 120 * half), _unit(outward + 120 * half)], axis=2).reshape(-1, 3)
    start = (np.arange(count)[:, None] * STEPS + np.arange(STEPS - 1)) * 2
    quads: Indices = np.stack([start, start + 1, start + 2, start + 1, start + 3, start + 2], axis=-1)
    return Mesh(vertices, normals, quads.reshape(-1, 3))


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
