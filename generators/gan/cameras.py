"""A generator's own cameras, and shared labels in its world.

EG3D's world is that of shared labels. PanoHead's heads stand about the origin of theirs, where its cameras
look: a frame measured on faces, a similarity, brings one onto the other.
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

# Beyond these a generator has seen no photographs: yaw and pitch in degrees.
RANGES: dict[Kind, tuple[float, float]] = {"eg3d": (75.0, 40.0), "panohead": (180.0, 60.0)}
MEASURED_YAWS = (-30.0, -15.0, 0.0, 15.0, 30.0)


def own_camera(settings: Settings, yaw: float = 0.0, pitch: float = 0.0) -> NDArray[np.float32]:
    """The label (25,) of the generator's own camera at an angle (radians): on its sphere, at its pivot."""
    return label_from_angles(yaw, pitch, radius=settings.radius, pivot=settings.pivot)


def measuring_cameras(settings: Settings) -> Labels:
    """Own cameras (K, 25) from which a face is seen well."""
    return np.stack([own_camera(settings, np.radians(yaw), 0.05) for yaw in MEASURED_YAWS])


def measured_frame(
    images: Sequence[Image.Image], labels: Labels, detector: FaceDetector | None = None
) -> HeadFrame:
    """The similarity from a generator's world to the shared one, from square images (S, S) at labels (K, 25)
    in its world. Raises NoHeadError where too few show a face, or they do not agree."""
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
    """Shared labels (K, 25) in the world of a generator whose head has this frame; without one as they
    are."""
    if frame is None:
        return np.asarray(labels, dtype=np.float32)
    return np.stack([_moved(one, frame) for one in np.asarray(labels, dtype=np.float64)])


def check_range(labels: Labels, kind: Kind) -> None:
    """Log a warning where cameras (K, 25) look from where the generator has seen no photographs."""
    outside = outside_range(labels, kind)
    if outside.any():
        warn_of_range(f"{outside.sum()} of {len(outside)} cameras are", kind)


def outside_range(labels: Labels, kind: Kind) -> NDArray[np.bool_]:
    """Which cameras (K, 25) look from where the generator has seen no photographs, (K,)."""
    most_yaw, most_pitch = RANGES[kind]
    yaw, pitch = np.abs(np.degrees(angles(labels))).T
    return (yaw > most_yaw + 0.5) | (pitch > most_pitch + 0.5)


def warn_of_range(what: str, kind: Kind) -> None:
    """Log that `what` ("cameras are") outside the generator's range."""
    log.warning(
        "%s: %s outside what it was trained on (yaw to %g°, pitch to %g°): those images are guesses",
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
