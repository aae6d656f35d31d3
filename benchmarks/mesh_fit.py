"""`python -m benchmarks.mesh_fit`: fit the canonical face and the calibration of
`portraits.alignment.mesh_camera`.

They are fitted on people with known cameras: build a capture of 128 pixels or more (`python -m shards.build
synthetic --size 128 …`), and report poses on other people (`python -m benchmarks.pose`). N views.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from scipy.optimize import least_squares
from tqdm import tqdm

from benchmarks.pose import people
from core.errors import InputError, one_line
from core.files import whole_file
from portraits.alignment import mesh
from portraits.alignment.camera import turn_of_rotation
from portraits.alignment.mesh_camera import Calibration, fitted_rotation
from portraits.cameras import project, split_label
from shards.schema import Split

Array = NDArray[np.float64]

FACE_LIMIT = 45  # degrees; at larger yaws the network extrapolates half of the face
TRUSTED = 0.2  # least score of views for the calibration
FEWEST = 20  # least number of views
ROBUST = 0.01  # radians; scale below which the robust loss of yaw errors is quadratic


class Views(NamedTuple):
    """Dense landmarks (N, 468, 3), normalised to the image, their scores (N,) and true cameras (N, 25)."""

    points: Array
    scores: Array
    cameras: Array

    @property
    def rotations(self) -> Array:
        """The cameras' rotations (N, 3, 3)."""
        return split_label(self.cameras)[0][:, :3, :3].astype(np.float64)


def find_meshes(images: NDArray[np.uint8], cameras: Array) -> Views:
    """The dense landmarks of the images (N, S, S, 3) in which the detector finds a face."""
    points, scores, known = [], [], []
    for image, camera in zip(images, cameras, strict=True):
        regions = mesh.detect(image)
        if regions:
            found = mesh.find_mesh(image, regions[0])
            flat = (found.points[:, :2] + 0.5) / len(image)
            points.append(np.concatenate([flat, found.points[:, 2:] / len(image)], axis=1))
            scores.append(found.score)
            known.append(camera)
    return Views(np.array(points), np.array(scores), np.array(known, dtype=np.float64))


def fit_face(views: Views) -> Array:
    """Fit the canonical face (468, 3) in EG3D's frame: the symmetrised mean of the landmarks, rotated by the
    true cameras, with the position and size that project to the landmarks."""
    yaws = np.abs(np.degrees(turn_of_rotation(views.rotations)[:, 0]))
    near = np.flatnonzero((yaws < FACE_LIMIT) & (views.scores >= mesh.FACE))
    if len(near) < FEWEST:
        raise InputError(f"{len(near)} views within {FACE_LIMIT}° of yaw show a face: give {FEWEST} or more")
    turned = [_unit(views.points[view]) @ views.rotations[view].T for view in near]
    mean = _unit(np.mean(turned, axis=0))
    shape = _unit((mean + mean[mirror_of(mean)] * (-1, 1, 1)) / 2)

    def errors(parameters: Array) -> Array:
        size, y, z = parameters
        face = size * shape + (0.0, y, z)
        return np.concatenate(
            [(project(face, views.cameras[view]) - views.points[view, :, :2]).ravel() for view in near]
        )

    size, y, z = least_squares(errors, (0.14, 0.0, 0.2)).x
    return size * shape + (0.0, y, z)


def mirror_of(face: Array) -> NDArray[np.intp]:
    """The index of each vertex's mirror image in a face (468, 3) that is nearly symmetric."""
    distances = np.linalg.norm(face[:, None] * (-1, 1, 1) - face, axis=2)
    return distances.argmin(1)


def fit_calibration(views: Views, face: Array) -> Calibration:
    """Fit the calibration by least absolute errors."""
    trusted = views.scores >= TRUSTED
    yaws = turn_of_rotation([fitted_rotation(points, face) for points in views.points[trusted]])[:, 0]
    true = turn_of_rotation(views.rotations[trusted])[:, 0]
    system, weights = np.stack([yaws, yaws**3], axis=1), np.ones(len(yaws))
    for _ in range(20):
        linear, cubic = np.linalg.lstsq(system * weights[:, None], true * weights, rcond=None)[0]
        errors = np.abs(system @ (linear, cubic) - true)
        weights = np.maximum(errors, ROBUST) ** -0.5
    return Calibration(float(linear), float(cubic))


def _unit(points: Array) -> Array:
    """Points centred and scaled to a root mean square distance of 1."""
    centred = points - points.mean(0)
    return centred / np.sqrt((centred**2).sum(1).mean())


def fit(shards: str, out: str, split: Split = "train", frames: int | None = None) -> str:
    """Write the canonical face, and return the calibration as text.

    Args:
        shards: a built folder with known cameras, of images of 128 pixels or more
        out: the .npy file to write
        split: split of the shards
        frames: number of frames; all by default
    """
    if not mesh.available():
        raise InputError("dense landmarks are not available: run python -m metrics.fetch")
    subjects = tqdm(people(shards, split, frames), desc="views of", unit="person")
    found = [find_meshes(subject.truths, subject.cameras) for subject in subjects]
    views = Views(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
    face = fit_face(views)
    with whole_file(Path(out)) as partial, partial.open("wb") as file:
        np.save(file, face.astype(np.float32))
    return f"{len(views.scores)} views; {fit_calibration(views, face)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.mesh_fit", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(fit)
    print(fit(**parser.parse_args(arguments).as_dict()))


if __name__ == "__main__":
    with one_line():
        main()
