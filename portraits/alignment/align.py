"""Alignment of one photo: face detection, EG3D's crop, and the camera of the crop."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from portraits.alignment.camera import camera_from_landmarks
from portraits.alignment.crop import Square, cut, square_around
from portraits.alignment.detection import Face, FaceDetector, choose
from portraits.alignment.mesh_camera import camera_from_mesh

REFINED_SIDE = 320


class NoFaceError(InputError):
    """No face was found in a photo, or none at the given box."""


@dataclass(frozen=True)
class Aligned:
    """A photo's EG3D crop.

    Args:
        image: the crop (S, S), RGB
        camera: its EG3D label (25,)
        face: the face, in pixels of the photo
        square: the cropped square, in pixels of the photo
    """

    image: Image.Image
    camera: NDArray[np.float32]
    face: Face
    square: Square

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """The five landmarks (5, 2), normalised to the crop."""
        return self.square.normalised(self.face.landmarks)


def align(
    photo: Image.Image, size: int, box: Sequence[float] | None = None, detector: FaceDetector | None = None
) -> Aligned:
    """Crop the largest face of an RGB photo as EG3D does, at `size`×`size`; with `box` (left, top, right,
    bottom in pixels), the face that overlaps it most.

    Raises NoFaceError, and InputError if the found face's crop is far larger than a photo."""
    face = find_face(photo, box, detector)
    if face is None:
        where = "" if box is None else f" at the box {' '.join(f'{edge:g}' for edge in box)}"
        raise NoFaceError(f"no face is found{where} in a photo of {photo.width}x{photo.height} pixels")
    square = square_around(face.landmarks, photo.height)
    return Aligned(cut(photo, square, size), camera_of_face(face, square), face, square)


def find_face(
    photo: Image.Image, box: Sequence[float] | None = None, detector: FaceDetector | None = None
) -> Face | None:
    """The face that `align` crops, or None. Without dense landmarks, MTCNN's five are detected again in a
    first crop, where every face has the same size, so that cropping a crop changes nothing."""
    detector = detector or FaceDetector()
    face = detector.largest(photo) if box is None else choose(detector.faces(photo), box)
    return face if face is None or face.mesh is not None else _refined(photo, face, detector)


def camera_of_face(face: Face, square: Square) -> NDArray[np.float32]:
    """The EG3D label (25,) of a square of the face's image, estimated from its dense landmarks if it has
    them, otherwise from the five."""
    if face.mesh is None:
        return camera_from_landmarks(square.normalised(face.landmarks))
    depths = face.mesh[:, 2:] / square.side
    return camera_from_mesh(np.concatenate([square.normalised(face.mesh[:, :2]), depths], axis=1))


def _refined(photo: Image.Image, face: Face, detector: FaceDetector) -> Face:
    """The face with its landmarks detected again in its crop; unchanged if none is detected there."""
    square = square_around(face.landmarks, photo.height)
    corner, scale = np.array([square.left, square.top]), square.side / REFINED_SIDE
    box = (face.box - np.tile(corner, 2)) / scale
    found = choose(detector.faces(cut(photo, square, REFINED_SIDE)), box.tolist())
    if found is None:
        return face
    mesh = None if found.mesh is None else found.mesh * scale + np.append(corner, 0.0)
    return Face(found.box * scale + np.tile(corner, 2), found.landmarks * scale + corner, found.score, mesh)
