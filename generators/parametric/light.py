"""The light of an environment: directional lights with shadows baked into a mesh's vertices, once for all
cameras, and reflections on glossy surfaces.

Shape letters: N vertices, L lights, P points.
"""

from dataclasses import dataclass

import cv2
import mitsuba as mi
import numpy as np
from numpy.typing import NDArray

from generators.parametric.anatomy import Array
from generators.parametric.environment import Environment, look_up, luminance

mi.set_variant("scalar_rgb")

LIGHTS = 32
HEIGHT, WIDTH = 128, 256  # size of the environment map for lights and reflections
MAP_SIDE, MAP_EXTENT = 128, 0.75  # a shadow map's side in pixels, and half its extent: head and shoulders
BIAS = 0.014  # depth bias of shadow maps (canonical units; 5 mm)
BOUNCE = 0.45  # share of occluded light that the occluder reflects instead


@dataclass(frozen=True)
class Lights:
    """Directional lights: unit vectors towards them (L, 3), and their linear RGB irradiance (L, 3)."""

    directions: Array
    colours: Array


@dataclass(frozen=True)
class Baked:
    """Light at each vertex: irradiance over π (N, 3), and the unoccluded share of the light (N, 1)."""

    irradiance: NDArray[np.float32]
    openness: NDArray[np.floating]


def median_cut(environment: Environment, count: int = LIGHTS) -> Lights:
    """Approximate the environment by `count` (a power of two) lights of equal energy, by repeatedly halving
    regions along their longer side (Debevec, A Median Cut Algorithm for Light Probe Sampling, 2005)."""
    image, directions, weights = _sampled(environment)
    energy = luminance(image) * weights
    regions = [(0, HEIGHT, 0, WIDTH)]
    while len(regions) < count:
        regions = [half for region in regions for half in _halves(energy, *region)]
    chosen, colours = [], []
    for top, bottom, left, right in regions:
        part = slice(top, bottom), slice(left, right)
        share = energy[part][..., None] + 1e-12
        mean = (directions[part] * share).sum((0, 1))
        chosen.append(mean / np.linalg.norm(mean))
        colours.append((image[part] * weights[part][..., None]).sum((0, 1)))
    return Lights(np.stack(chosen), np.stack(colours))


def _halves(energy: Array, top: int, bottom: int, left: int, right: int) -> list[tuple[int, int, int, int]]:
    part = energy[top:bottom, left:right]
    rows, columns = part.shape
    wide = (columns * np.sin(np.pi * (top + bottom) / 2 / HEIGHT) >= rows and columns > 1) or rows == 1
    along = np.cumsum(part.sum(0 if wide else 1))
    cut = int(np.clip(np.searchsorted(along, along[-1] / 2) + 1, 1, max(len(along) - 1, 1)))
    if wide:
        return [(top, bottom, left, left + cut), (top, bottom, left + cut, right)]
    return [(top, top + cut, left, right), (top + cut, bottom, left, right)]


def _sampled(environment: Environment) -> tuple[Array, Array, Array]:
    """The image at HEIGHT by WIDTH, the directions of its texels and their solid angles."""
    image = cv2.resize(environment.image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float64)
    polar = (np.arange(HEIGHT) + 0.5) / HEIGHT * np.pi
    azimuth = (np.arange(WIDTH) + 0.5) / WIDTH * 2 * np.pi
    polar, azimuth = np.meshgrid(polar, azimuth, indexing="ij")
    directions = np.stack(
        [np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)], axis=-1
    )
    return image, directions, np.sin(polar) * (np.pi / HEIGHT) * (2 * np.pi / WIDTH)


def bake(
    scene: mi.Scene, vertices: Array, normals: Array, wrap: Array, lights: Lights, centre: Array
) -> Baked:
    """Bake the light at vertices (N, 3) of a scene, with a shadow map around `centre` (3,) for each light.

    `wrap` (N, 3), per colour channel, is how far light wraps around the terminator."""
    irradiance = np.zeros((len(vertices), 3), np.float32)
    unshadowed = np.zeros((len(vertices), 1), np.float32)
    seen = np.zeros_like(unshadowed)
    for direction, colour in zip(lights.directions, lights.colours, strict=True):
        cosine = (normals @ direction)[:, None]
        facing = np.clip((cosine + wrap) / (1 + wrap), 0, None) * colour / np.pi
        visible = _visible(scene, vertices + BIAS / 2 * normals, direction, centre)[:, None]
        irradiance += facing * visible
        unshadowed += facing.mean(1, keepdims=True)
        seen += facing.mean(1, keepdims=True) * visible
    openness = seen / np.maximum(unshadowed, 1e-6)
    return Baked(irradiance, openness)


def _visible(scene: mi.Scene, points: Array, direction: Array, centre: Array) -> NDArray[np.float32]:
    """Visibility (N,) of a directional light from points (N, 3), with shadow edges a few texels soft."""
    distance = 4.0
    across = np.cross([0.0, 1.0, 0.0] if abs(direction[1]) < 0.95 else [1.0, 0.0, 0.0], direction)
    across /= np.linalg.norm(across)
    up = np.cross(direction, across)
    pose = np.eye(4)
    pose[:3] = np.stack([across * MAP_EXTENT, up * MAP_EXTENT, -direction, centre + distance * direction], 1)
    depth = cast(
        scene,
        {"type": "orthographic", "to_world": mi.ScalarTransform4f(pose.tolist()), "near_clip": 0.01},
        MAP_SIDE,
        "dd:depth",
    )[..., 0]
    depth[depth == 0] = np.inf
    offset = points - centre
    # a sensor's x axis points to the image's left
    at = np.stack([-(offset @ across), -(offset @ up)], axis=1) / MAP_EXTENT
    place = (at + 1) / 2 * MAP_SIDE - 0.5
    nearest = distance - offset @ direction - BIAS
    return _compared(depth, place, nearest)


def _compared(depth: Array, place: Array, nearest: Array) -> NDArray[np.float32]:
    """The share of the 3x3 texels around `place` (N, 2) that are not nearer than `nearest` (N,)."""
    column, row = np.round(place).astype(int).T
    inside = (column > 0) & (column < MAP_SIDE - 1) & (row > 0) & (row < MAP_SIDE - 1)
    column, row = np.clip(column, 1, MAP_SIDE - 2), np.clip(row, 1, MAP_SIDE - 2)
    lit = np.zeros(len(place), np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            lit += depth[row + down, column + right] > nearest
    return np.where(inside, lit / 9, 1).astype(np.float32)


def cast(scene: mi.Scene, sensor: dict[str, object], side: int, aovs: str, seed: int = 0) -> Array:
    """Cast one ray per pixel of a square image: Mitsuba's `aovs` (side, side, C), zero where nothing is
    hit."""
    film = {
        "type": "hdrfilm",
        "width": side,
        "height": side,
        "pixel_format": "luminance",
        "component_format": "float32",
        "rfilter": {"type": "box"},
    }
    loaded = mi.load_dict({**sensor, "film": film, "sampler": {"type": "independent", "sample_count": 1}})
    integrator = mi.load_dict({"type": "aov", "aovs": aovs})
    return np.array(mi.render(scene, sensor=loaded, integrator=integrator, spp=1, seed=mi.UInt32(seed)))


class Reflections:
    """Reflections of an environment on surfaces of given roughnesses: the environment blurred for each."""

    def __init__(self, environment: Environment, roughnesses: set[float]) -> None:
        image = cv2.resize(environment.image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        self.images = {rough: _blurred(image, rough * HEIGHT / 4) for rough in roughnesses}

    def along(self, directions: Array, roughness: float) -> NDArray[np.float32]:
        """Reflected light (P, 3), linear RGB, from directions (P, 3), unit vectors."""
        column = np.arctan2(directions[:, 0], directions[:, 2]) / (2 * np.pi) % 1 * WIDTH - 0.5
        row = np.arccos(np.clip(directions[:, 1], -1, 1)) / np.pi * HEIGHT - 0.5
        return look_up(self.images[roughness], column, row, cv2.BORDER_WRAP)


def _blurred(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """A latitude-longitude image blurred by a Gaussian of `sigma` texels, with columns wrapped around."""
    pad = WIDTH // 4
    wrapped = np.concatenate([image[:, -pad:], image, image[:, :pad]], axis=1)
    blurred = cv2.GaussianBlur(wrapped, (0, 0), max(sigma, 0.3), borderType=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(blurred[:, pad:-pad])
