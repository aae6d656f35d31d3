"""Estimation of a head's camera from its face: by MediaPipe's 468 landmarks, MTCNN's five, dlib's 68, or
Deep3DFaceRecon's coefficients. N faces."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from metrics.catalogue import CATALOGUE, DEEP3D, DLIB_68, MESH, MTCNN
from metrics.deep3d import Deep3DCameras
from metrics.dlib_faces import dlib_view, model_file
from metrics.faces import Reading
from portraits.alignment.align import NoFaceError, align
from portraits.alignment.camera import camera_from_landmarks
from portraits.alignment.detection import FaceDetector
from portraits.cameras import LABEL_SIZE

JAW = 17  # the first 17 of the 68 points outline the jaw, and are other points of the head in each view
WIDTH = 1.7  # side of the landmark detector's initial square, relative to the distance between eyes and mouth
CROP_SIDE = 224  # side of a crop of which only the camera is used


class HeadCameras(Protocol):
    """Estimates the cameras of faces."""

    def __call__(self, faces: Sequence[Reading]) -> NDArray[np.float64]:
        """EG3D labels (N, 25) of the faces' crops; NaN if no landmarks are found."""
        ...


class MeshCameras:
    """Cameras from MediaPipe's 468 landmarks, which the face detector has found. Raises InputError if the
    networks are not available."""

    def __init__(self) -> None:
        if not CATALOGUE[MESH].available:
            raise InputError(f"POSE has no landmarks {MESH} on this machine: {CATALOGUE[MESH].remedy}")

    def __call__(self, faces: Sequence[Reading]) -> NDArray[np.float64]:
        """EG3D labels (N, 25) of the faces' crops."""
        return _by_face(faces, lambda face: None if face.face.mesh is None else face.camera)


class FivePointCameras:
    """Cameras from MTCNN's five landmarks."""

    def __init__(self) -> None:
        self._detector = FaceDetector(dense=False)

    def __call__(self, faces: Sequence[Reading]) -> NDArray[np.float64]:
        """EG3D labels (N, 25) of the faces' crops."""
        return _by_face(faces, self._camera)

    def _camera(self, face: Reading) -> NDArray[np.float32] | None:
        try:
            return align(Image.fromarray(face.image), CROP_SIDE, face.box.tolist(), self._detector).camera
        except NoFaceError:
            return None


class SixtyEightPointCameras:
    """Cameras from the 51 inner points of dlib's 68, by perspective-n-point with `FACE_51`.

    The landmark detector was trained on iBUG 300-W, whose licence excludes commercial use.
    """

    def __init__(self) -> None:
        path = model_file(DLIB_68, "shape_predictor_68_face_landmarks.dat")
        import dlib

        self._finder = dlib.shape_predictor(path)

    def points(self, face: Reading) -> NDArray[np.float64]:
        """All landmarks (68, 2), normalised to the face's crop."""
        image, box, scale = dlib_view(face, _about(face.landmarks))
        found = self._finder(image, box).parts()
        pixels = (np.array([(point.x, point.y) for point in found]) + 0.5) / scale - 0.5
        return face.square.normalised(pixels)

    def __call__(self, faces: Sequence[Reading]) -> NDArray[np.float64]:
        """EG3D labels (N, 25) of the faces' crops."""
        return _by_face(faces, lambda face: camera_from_landmarks(self.points(face)[JAW:], FACE_51))


def _by_face(
    faces: Sequence[Reading], camera_of: Callable[[Reading], NDArray[np.float32] | None]
) -> NDArray[np.float64]:
    cameras = np.full((len(faces), LABEL_SIZE), np.nan)
    for row, face in zip(cameras, faces, strict=True):
        found = camera_of(face)
        if found is not None:
            row[:] = found
    return cameras


def _about(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """The initial square (4,) of the landmark detector, centred between eyes and mouth. The centre of the
    face's box is less suitable: on a turned head, the box includes an ear."""
    eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
    middle, half = (eyes + mouth) / 2, WIDTH / 2 * np.linalg.norm(mouth - eyes)
    return np.concatenate([middle - half, middle + half])


HEAD_CAMERAS: dict[str, Callable[[], HeadCameras]] = {
    MESH: MeshCameras,
    MTCNN: FivePointCameras,
    DLIB_68: SixtyEightPointCameras,
    DEEP3D: Deep3DCameras,
}


def head_cameras(weights: str) -> HeadCameras:
    """The camera estimator for landmarks of this name. Raises InputError if the name is unknown or the
    weights are not available."""
    name, _, path = weights.partition("=")
    if name == DEEP3D:
        return Deep3DCameras(path or None)
    if weights not in HEAD_CAMERAS:
        raise InputError(f"POSE takes the landmarks {', '.join(HEAD_CAMERAS)}, not {weights!r}")
    return HEAD_CAMERAS[weights]()


# Positions of dlib's last 51 points (brows, nose, eyes, lips) on a face, in EG3D's frame: the median over ten
# captured people, triangulated from views within 30 degrees of the front (`python -m benchmarks.pose
# --fit_points true`).
# fmt: off
FACE_51 = np.array([
    (-0.152, 0.121, 0.171), (-0.128, 0.142, 0.188), (-0.095, 0.148, 0.202), (-0.061, 0.143, 0.214),
    (-0.029, 0.131, 0.226), (0.029, 0.131, 0.226), (0.061, 0.143, 0.214), (0.095, 0.148, 0.202),
    (0.128, 0.142, 0.188), (0.152, 0.121, 0.171), (0, 0.086, 0.23), (0, 0.055, 0.245), (0, 0.024, 0.261),
    (0, -0.008, 0.278), (-0.039, -0.031, 0.245), (-0.02, -0.038, 0.25), (0, -0.043, 0.255),
    (0.02, -0.038, 0.25), (0.039, -0.031, 0.245), (-0.118, 0.085, 0.185), (-0.097, 0.096, 0.194),
    (-0.072, 0.096, 0.197), (-0.049, 0.08, 0.198), (-0.073, 0.074, 0.199), (-0.099, 0.074, 0.196),
    (0.049, 0.08, 0.198), (0.072, 0.096, 0.197), (0.097, 0.096, 0.194), (0.118, 0.085, 0.185),
    (0.099, 0.074, 0.196), (0.073, 0.074, 0.199), (-0.068, -0.103, 0.219), (-0.043, -0.086, 0.241),
    (-0.018, -0.078, 0.254), (0, -0.082, 0.256), (0.018, -0.078, 0.254), (0.043, -0.086, 0.241),
    (0.068, -0.103, 0.219), (0.044, -0.126, 0.236), (0.02, -0.133, 0.248), (0, -0.135, 0.25),
    (-0.02, -0.133, 0.248), (-0.044, -0.126, 0.236), (-0.056, -0.104, 0.223), (-0.018, -0.097, 0.251),
    (0, -0.098, 0.254), (0.018, -0.097, 0.251), (0.056, -0.104, 0.223), (0.019, -0.108, 0.247),
    (0, -0.11, 0.249), (-0.019, -0.108, 0.247),
])
# fmt: on
