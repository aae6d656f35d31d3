"""A studio: soft boxes around the camera rig, and a plain backdrop that is the same for every camera of a
take."""

import numpy as np
from numpy.typing import NDArray

from generators.parametric.anatomy import Array
from generators.parametric.appearance import ramp
from generators.parametric.environment import Environment, grid, luminance

BACKDROP_SIDE = 64


def sample_studio(rng: np.random.Generator) -> Environment:
    """A random studio: soft light from the front and above, and a plain backdrop."""
    _, elevation = grid()
    warm = rng.uniform(-0.10, 0.10)
    tint = np.array([1 + warm, 1.0, 1 - warm])
    image = (0.8 + 0.3 * np.sin(elevation))[..., None] * tint * rng.uniform(0.5, 1.0)
    image = image + _soft_box(rng, (-1.2, 1.2), (0.15, 0.9), rng.uniform(1.0, 2.2)) * tint
    image = image + _soft_box(rng, (-1.5, 1.5), (-0.2, 0.9), rng.uniform(0.2, 0.9)) * tint[::-1]
    image = image / luminance(image).mean() * 0.62
    return Environment(image.astype(np.float32), float(rng.uniform(0.9, 1.15)), _backdrop(rng))


def _soft_box(
    rng: np.random.Generator, yaws: tuple[float, float], pitches: tuple[float, float], irradiance: float
) -> Array:
    """A round, soft-edged light (H, W, 1) with `irradiance` on a surface that faces it."""
    azimuth, elevation = grid()
    yaw, pitch, radius = rng.uniform(*yaws), rng.uniform(*pitches), rng.uniform(0.35, 0.6)
    cosine = np.sin(pitch) * np.sin(elevation) + np.cos(pitch) * np.cos(elevation) * np.cos(azimuth - yaw)
    disc = ramp(np.arccos(np.clip(cosine, -1, 1)), radius * 1.25, radius * 0.75)
    return disc[..., None] * irradiance / (2 * (1 - np.cos(radius)))


def _backdrop(rng: np.random.Generator) -> NDArray[np.float32]:
    """A backdrop (BACKDROP_SIDE, BACKDROP_SIDE, 3), linear RGB: a muted colour, lighter around the head."""
    hue = np.array([(1.0, 0.92, 0.82), (0.85, 0.93, 1.0), (0.9, 1.0, 0.9), (1.0, 1.0, 1.0)][rng.integers(4)])
    colour = np.exp(rng.uniform(np.log(0.06), np.log(0.85))) * hue ** rng.uniform(0, 2)
    axis = (np.arange(BACKDROP_SIDE) + 0.5) / BACKDROP_SIDE * 2 - 1
    across, down = np.meshgrid(axis, axis)
    glow = np.exp(-((across - rng.uniform(-0.4, 0.4)) ** 2 + (down - rng.uniform(-0.5, 0.3)) ** 2) / 1.5)
    shade = 0.72 + 0.45 * glow * rng.uniform(0.4, 1.0) - 0.08 * down
    return (shade[..., None] * colour).astype(np.float32)
