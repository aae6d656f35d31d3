"""Procedural environments, which light the head and are its background.

An environment is a latitude-longitude image in linear RGB. It is infinitely far away, so the background
depends on the camera's direction only.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from generators.parametric.anatomy import Array
from generators.parametric.appearance import noise, ramp
from portraits.cameras import split_label

HEIGHT, WIDTH = 512, 1024


@dataclass(frozen=True)
class Environment:
    """An environment map and its exposure.

    Args:
        image: (HEIGHT, WIDTH, 3) linear RGB; row 0 is the zenith, column 0 looks to +z, and columns increase
            towards +x
        exposure: scale of linear radiance before tone mapping, constant in a frame
        backdrop: a square image that is the background of every camera, instead of the environment
    """

    image: NDArray[np.float32]
    exposure: float
    backdrop: NDArray[np.float32] | None = None


def sample_environment(rng: np.random.Generator) -> Environment:
    """A random room, street or landscape, or studio, with a soft key light outside every camera's view."""
    kind = (_indoor, _outdoor, _studio)[rng.choice(3, p=[0.45, 0.4, 0.15])]
    image = gaussian_filter(kind(rng), (*[rng.uniform(0.3, 2.2)] * 2, 0), mode=("nearest", "wrap", "nearest"))
    image = np.clip(image, 0.004, 12)
    image = image / max(luminance(image).mean(), 1e-3) * rng.uniform(0.35, 0.9)
    image = image + _key_light(rng)
    return Environment(image.astype(np.float32), float(rng.uniform(0.8, 1.15)))


def _key_light(rng: np.random.Generator) -> Array:
    """A round softbox in front of the face, in the hemisphere behind the cameras."""
    azimuth, elevation = grid()
    yaw, pitch, radius = rng.uniform(-1.3, 1.3), rng.uniform(0.0, 1.1), rng.uniform(0.12, 0.30)
    cosine = np.sin(pitch) * np.sin(elevation) + np.cos(pitch) * np.cos(elevation) * np.cos(azimuth - yaw)
    disc = ramp(np.arccos(np.clip(cosine, -1, 1)), radius * 1.15, radius * 0.85)
    warm = rng.uniform(-0.12, 0.12)
    irradiance = rng.uniform(0.5, 2.2)
    return disc[..., None] * irradiance / (1 - np.cos(radius)) / 2 * np.array([1 + warm, 1.0, 1 - warm])


def background(environment: Environment, label: Array, size: int, oversample: int = 2) -> NDArray[np.float32]:
    """The background (size, size, 3), linear RGB, of the camera of `label` (25,)."""
    if environment.backdrop is not None:
        return cv2.resize(environment.backdrop, (size, size), interpolation=cv2.INTER_LINEAR)
    pose, intrinsics = split_label(label)
    side = size * oversample
    centres = (np.arange(side) + 0.5) / side
    u, v = np.meshgrid(centres, centres)
    y = (v - intrinsics[1, 2]) / intrinsics[1, 1]
    x = (u - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ pose[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    columns = np.arctan2(rays[..., 0], rays[..., 2]) / (2 * np.pi) % 1 * WIDTH - 0.5
    rows = np.arccos(np.clip(rays[..., 1], -1, 1)) / np.pi * HEIGHT - 0.5
    maps = columns.astype(np.float32), rows.astype(np.float32)
    seen = cv2.remap(environment.image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return seen.reshape(size, oversample, size, oversample, 3).mean(axis=(1, 3)).astype(np.float32)


def look_up(image: NDArray[np.float32], column: Array, row: Array, border: int) -> NDArray[np.float32]:
    """Bilinear samples (P, C) of an image (H, W, C) at texel coordinates (P,); `border` is OpenCV's border
    mode."""
    count, line = len(column), 1024  # OpenCV limits the length of lines
    padded = -(-count // line) * line
    at = [np.resize(x.astype(np.float32), padded).reshape(-1, line) for x in (column, row)]
    return cv2.remap(image, *at, cv2.INTER_LINEAR, borderMode=border).reshape(padded, -1)[:count]


def luminance(image: Array) -> Array:
    """Luminance (...) of linear RGB (..., 3), by Rec. 709."""
    return image @ np.array([0.2126, 0.7152, 0.0722])


def _natural(rng: np.random.Generator, brightness: float, saturation: float = 0.25) -> Array:
    """A muted colour: mostly grey, tinted warm, cool or sometimes green."""
    hue = rng.choice(
        [(1.0, 0.75, 0.5), (0.6, 0.8, 1.0), (0.7, 0.9, 0.5), (0.9, 0.9, 0.9)], p=[0.45, 0.25, 0.1, 0.2]
    )
    amount = rng.uniform(0.2, 1.0) * saturation * 3
    colour = (1 - amount) + amount * np.asarray(hue)
    return np.clip(brightness * colour, 0.005, None)


@cache
def grid() -> tuple[Array, Array]:
    """Azimuth (-pi to pi, 0 looking to +z) and elevation (-pi/2 to pi/2) of every texel."""
    azimuth = ((np.arange(WIDTH) + 0.5) / WIDTH * 2 * np.pi + np.pi) % (2 * np.pi) - np.pi
    elevation = np.pi / 2 - (np.arange(HEIGHT) + 0.5) / HEIGHT * np.pi
    return np.meshgrid(azimuth, elevation)


def _box(
    image: Array,
    rng: np.random.Generator,
    centre: tuple[float, float],
    extent: tuple[float, float],
    colour: Array,
) -> None:
    """Draw, in place, an upright box with the given azimuth and elevation of its centre and extents, radians,
    sometimes with a frame."""
    azimuth, elevation = grid()
    across = np.abs((azimuth - centre[0] + np.pi) % (2 * np.pi) - np.pi)
    up = np.abs(elevation - centre[1])
    inside = (across < extent[0] / 2) & (up < extent[1] / 2)
    tilt = rng.uniform(-0.5, 0.5, 2)
    shade = 1 + tilt[0] * (azimuth - centre[0])[inside] + tilt[1] * (elevation - centre[1])[inside]
    image[inside] = colour * np.clip(shade, 0.4, 1.6)[:, None]
    if rng.random() < 0.5:
        edge = inside & ((across > extent[0] / 2 - 0.025) | (up > extent[1] / 2 - 0.025))
        image[edge] = colour * rng.uniform(0.3, 1.6)


def _indoor(rng: np.random.Generator) -> Array:
    _, elevation = grid()
    wall, floor, ceiling = (
        _natural(rng, rng.uniform(0.2, 0.9)),
        _natural(rng, rng.uniform(0.08, 0.4)),
        _natural(rng, rng.uniform(0.5, 1.2), 0.1),
    )
    shade = 1 + 0.12 * noise(rng, elevation.shape, 40)
    image = (wall * shade[..., None]).astype(np.float64)
    image[elevation < -rng.uniform(0.35, 0.6)] = floor
    image[elevation > rng.uniform(0.5, 0.8)] = ceiling
    for _ in range(rng.integers(60, 140)):  # furniture, doors, pictures, shelves
        extent = tuple(np.exp(rng.uniform(np.log(0.02), np.log(0.45), 2)))
        _box(
            image,
            rng,
            (rng.uniform(-np.pi, np.pi), rng.uniform(-0.5, 0.45)),
            extent,
            _natural(rng, rng.uniform(0.04, 0.9), 0.32),
        )
    for _ in range(rng.integers(1, 5)):  # windows and lamps
        extent = (rng.uniform(0.15, 0.6), rng.uniform(0.2, 0.7))
        _box(
            image,
            rng,
            (rng.uniform(-np.pi, np.pi), rng.uniform(-0.05, 0.5)),
            extent,
            _natural(rng, rng.uniform(2, 6), 0.12),
        )
    return image * np.clip(1 + 0.06 * noise(rng, elevation.shape, 3), 0.5, 1.5)[..., None]


def _outdoor(rng: np.random.Generator) -> Array:
    _, elevation = grid()
    zenith = np.array([0.25, 0.42, 0.80]) * rng.uniform(0.7, 1.3) * (1, 1, rng.uniform(0.8, 1))
    horizon = _natural(rng, rng.uniform(0.9, 1.6), 0.15)
    cloud = np.clip(noise(rng, elevation.shape, rng.uniform(10, 28)), 0, 1) * rng.uniform(0, 0.9)
    sky = horizon + (zenith - horizon) * ramp(elevation, 0.0, 0.9)[..., None]
    image = sky + (1.3 - sky) * cloud[..., None]
    for layer in range(rng.integers(2, 5)):  # hills, trees or buildings, the near ones darker
        jagged = noise(rng, (2, WIDTH), rng.uniform(4, 40))[0]
        if rng.random() < 0.5:
            jagged = np.repeat(jagged[:: (step := int(rng.integers(6, 20)))], step)[:WIDTH]
        skyline = 0.22 - 0.09 * layer + rng.uniform(0.05, 0.14) * jagged
        colour = (
            _natural(rng, rng.uniform(0.1, 0.55))
            if rng.random() < 0.6
            else np.array([0.10, 0.16, 0.06]) * rng.uniform(0.6, 2)
        )
        texture = 1 + 0.3 * noise(rng, elevation.shape, rng.uniform(1.5, 6))
        below = elevation < skyline[None, :]
        image[below] = (colour * np.clip(texture, 0.2, 2)[..., None])[below]
    ground = _natural(rng, rng.uniform(0.12, 0.5))
    low = elevation < -rng.uniform(0.12, 0.4)
    image[low] = (ground * np.clip(1 + 0.2 * noise(rng, elevation.shape, 6), 0.2, 2)[..., None])[low]
    return image


def _studio(rng: np.random.Generator) -> Array:
    azimuth, elevation = grid()
    colour = _natural(rng, rng.uniform(0.08, 0.9), 0.2)
    glow = 1 + rng.uniform(0, 1.2) * np.exp(
        -((np.abs(azimuth) - np.pi) ** 2 + elevation**2) / rng.uniform(0.3, 1.5)
    )
    image = colour * (glow * (1 + 0.05 * noise(rng, elevation.shape, 30)))[..., None]
    for _ in range(rng.integers(1, 4)):  # softboxes, in front and above
        _box(
            image,
            rng,
            (rng.uniform(-1.4, 1.4), rng.uniform(0.2, 1.0)),
            (rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.8)),
            np.full(3, rng.uniform(3, 9)),
        )
    return image
