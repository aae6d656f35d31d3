"""Conversion of EG3D labels into a generator's own world coordinates, and the cameras it was trained at.

EG3D's world is that of EG3D labels. PanoHead's heads are centred at the origin, where its cameras look: a
similarity transform, measured on detected faces, maps one world to the other.
"""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from generators.gan.architecture import Kind, Settings
from portraits.alignment.detection import FaceDetector, choose
from portraits.alignment.head import HeadFrame, locate_head
from portraits.cameras import angles, label, label_from_angles, split_label

log = logging.getLogger(__name__)

Labels = NDArray[np.float32]

# Largest yaw and pitch of the training images, in degrees.
RANGES: dict[Kind, tuple[float, float]] = {"eg3d": (75.0, 40.0), "panohead": (180.0, 60.0)}
MEASURED_YAWS = (-30.0, -15.0, 0.0, 15.0, 30.0)


def own_camera(settings: Settings, yaw: float = 0.0, pitch: float = 0.0) -> NDArray[np.float32]:
    """The label (25,) of a camera at yaw and pitch, radians, at the generator's own radius and looking at its
    pivot."""
    return label_from_angles(yaw, pitch, radius=settings.radius, pivot=settings.pivot)


def measuring_cameras(settings: Settings) -> Labels:
    """The generator's cameras (K, 25) at which faces are detected reliably."""
    return np.stack([own_camera(settings, np.radians(yaw), 0.05) for yaw in MEASURED_YAWS])


def measured_frame(
    images: Sequence[Image.Image], labels: Labels, detector: FaceDetector | None = None
) -> HeadFrame:
    """Estimate the similarity from a generator's world to that of EG3D labels, from square images (S, S) at
    labels (K, 25) in the generator's world. Raises NoHeadError if faces are detected in too few images, or
    disagree."""
    detector = detector or FaceDetector()
    projections, landmarks = {}, {}
    for index, (image, own) in enumerate(zip(images, labels, strict=True)):
        face = choose(detector.faces(image))
        if face is None:
            continue
        pose, intrinsics = split_label(own.astype(np.float64))
        side = image.width
        to_pixels = np.array([[side, 0, -0.5], [0, side, -0.5], [0, 0, 1]])
        projections[f"{index:04d}"] = to_pixels @ intrinsics @ np.linalg.inv(pose)[:3]
        landmarks[f"{index:04d}"] = face.landmarks
    return locate_head(projections, landmarks)


def in_world(labels: Labels, frame: HeadFrame | None) -> Labels:
    """EG3D labels (K, 25) in the world of a generator whose head has this frame; unchanged without one."""
    if frame is None:
        return np.asarray(labels, dtype=np.float32)
    return np.stack([_moved(one, frame) for one in np.asarray(labels, dtype=np.float64)])


def check_range(labels: Labels, kind: Kind) -> None:
    """Log a warning if cameras (K, 25) are outside the range of the training images."""
    outside = outside_range(labels, kind)
    if outside.any():
        warn_of_range(f"{outside.sum()} of {len(outside)} cameras are", kind)


def outside_range(labels: Labels, kind: Kind) -> NDArray[np.bool_]:
    """Mask (K,) of the cameras (K, 25) that are outside the range of the training images."""
    most_yaw, most_pitch = RANGES[kind]
    yaw, pitch = np.abs(np.degrees(angles(labels))).T
    return (yaw > most_yaw + 0.5) | (pitch > most_pitch + 0.5)


def warn_of_range(what: str, kind: Kind) -> None:
    """Log a warning that `what`, such as "2 of 9 cameras are", outside the generator's range."""
    log.warning(
        "%s: %s outside the range of its training images (yaw to %g°, pitch to %g°): expect artefacts",
        kind,
        what,
        *RANGES[kind],
    )


def _moved(one: NDArray[np.float64], frame: HeadFrame) -> Labels:
    pose, intrinsics = split_label(one)
    moved = np.eye(4)
    moved[:3, :3] = frame.rotation.T @ pose[:3, :3]
    moved[:3, 3] = frame.world(pose[None, :3, 3])[0]
    return label(moved, intrinsics)
