"""Camera paths around the head, as EG3D labels: orbit, yaw sweep, pitch sweep, and the released spiral.

K views. Users' amplitudes are in degrees.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from portraits.cameras import label_from_angles

Angles = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Yaw and pitch (K,) each, radians."""

MAX_VIEWS = 10_000
MAX_YAW, MAX_PITCH = 180.0, 85.0  # degrees; at the poles the camera's up vector is undefined
# Degrees: EG3D's videos orbit around a camera above the front by 0.05 of its pitch parameter, arcsin(2 · 0.05
# / π).
SPIRAL_ELEVATION = 1.824


@dataclass(frozen=True)
class Trajectory:
    """A camera path: its function `angles(views, yaw, pitch)` of amplitudes in radians, and its default
    amplitudes in degrees, None for an angle that the path does not change."""

    angles: Callable[[int, float, float], Angles]
    yaw: float | None
    pitch: float | None


def orbit(views: int, yaw: float, pitch: float) -> Angles:
    """A closed ellipse around the front, starting above it; the last view is next to the first."""
    phase = _phase(views)
    return yaw * np.sin(phase), pitch * np.cos(phase)


def yaw_sweep(views: int, yaw: float, _pitch: float) -> Angles:
    """From -yaw, where the face points to the image's right, to +yaw in equal steps; one view is frontal."""
    return _sweep(views, yaw), np.zeros(views)


def pitch_sweep(views: int, _yaw: float, pitch: float) -> Angles:
    """From -pitch, below the face, to +pitch in equal steps; one view is frontal."""
    return np.zeros(views), _sweep(views, pitch)


def spiral(views: int, yaw: float, pitch: float) -> Angles:
    """The path of EG3D's videos and of the released condition images: from below over +x to above.

    EG3D's pitch parameter is linear in the height of the camera, not in its angle.
    """
    phase = _phase(views)
    height = np.sin(np.radians(SPIRAL_ELEVATION)) - np.sin(pitch) * np.cos(phase)
    steepest = np.sin(np.radians(MAX_PITCH))
    return yaw * np.sin(phase), np.arcsin(np.clip(height, -steepest, steepest))


# The amplitudes of the released path are not published. 0.4 rad and 0.5 of EG3D's pitch parameter fit its 16
# images; EG3D's own videos have 0.35 and 0.25 (20.05 and 9.16 degrees).
TRAJECTORIES = {
    "orbit": Trajectory(orbit, 40.0, 12.0),
    "yaw_sweep": Trajectory(yaw_sweep, 45.0, None),
    "pitch_sweep": Trajectory(pitch_sweep, None, 20.0),
    "spiral": Trajectory(spiral, 22.92, 18.56),
}


def trajectory(
    name: str, views: int, yaw: float | None = None, pitch: float | None = None
) -> NDArray[np.float32]:
    """EG3D labels (K, 25) of `views` cameras on the named path, with amplitudes in degrees or its defaults.

    Raises InputError for an unknown name, less than one view, an amplitude out of range, or an amplitude of
    an angle that the path does not change.
    """
    if name not in TRAJECTORIES:
        raise InputError(f"--trajectory {name}: there is no such path; choose from {', '.join(TRAJECTORIES)}")
    if not 1 <= views <= MAX_VIEWS:
        raise InputError(f"--views {views}: give 1 to {MAX_VIEWS}")
    path = TRAJECTORIES[name]
    amplitudes = (
        _amplitude(name, "yaw", yaw, path.yaw, MAX_YAW),
        _amplitude(name, "pitch", pitch, path.pitch, MAX_PITCH),
    )
    pairs = zip(*path.angles(views, *np.radians(amplitudes).tolist()), strict=True)
    return np.stack([label_from_angles(float(yaw), float(pitch)) for yaw, pitch in pairs])


def _amplitude(name: str, angle: str, given: float | None, default: float | None, limit: float) -> float:
    if given is None:
        return default or 0.0
    if default is None:
        raise InputError(f"--{angle} {given:g}: {name} does not change the {angle}; leave it out")
    if not 0 <= abs(given) <= limit:
        raise InputError(f"--{angle} {given:g}: give an amplitude in degrees, at most {limit:g}")
    return given


def _phase(views: int) -> NDArray[np.float64]:
    return 2 * np.pi * np.arange(views) / views


def _sweep(views: int, amplitude: float) -> NDArray[np.float64]:
    return np.linspace(-amplitude, amplitude, views) if views > 1 else np.zeros(1)
