"""How a head is turned, from the landmarks of its face: MTCNN's five or dlib's 68."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metrics.catalogue import DLIB_68, MTCNN
from metrics.dlib_faces import model_file, shown
from metrics.faces import Reading
from portraits.alignment.camera import camera_from_landmarks

JAW = 17  # how many points outline the jaw, the first of the 68: other places of the face in each view
WIDTH = 1.7  # of the square that the finder starts from, in distances of eyes and mouth


class HeadCamera(Protocol):
    """Finds the camera that sees a face."""

    def __call__(self, face: Reading) -> NDArray[np.float32]:
        """An EG3D label (25,) of the face's crop."""
        ...


def five_points(face: Reading) -> NDArray[np.float32]:
    """The camera by MTCNN's five points, found when the face was."""
    return face.aligned.camera


class SixtyEightPoints:
    """The camera by the 51 of dlib's 68 points that lie within the face, by perspective-n-point against
    `FACE_51`.

    Up to 45 degrees of yaw they are finer than MTCNN's five in pitch and roll, and in yaw no better: as good
    in images of 128 pixels, worse in smaller ones, and worse beyond (`python -m benchmarks.pose`). So
    MTCNN's are the standard here. Their finder was trained on iBUG 300-W, whose licence leaves out
    commercial use.
    """

    def __init__(self) -> None:
        path = model_file(DLIB_68, "shape_predictor_68_face_landmarks.dat")
        import dlib

        self._finder = dlib.shape_predictor(path)

    def points(self, face: Reading) -> NDArray[np.float64]:
        """All points (68, 2), normalised to the face's crop."""
        image, box, scale = shown(face, _about(face.aligned.face.landmarks))
        found = self._finder(image, box).parts()
        pixels = (np.array([(point.x, point.y) for point in found]) + 0.5) / scale - 0.5
        return face.aligned.square.normalised(pixels)

    def __call__(self, face: Reading) -> NDArray[np.float32]:
        """The camera (25,)."""
        return camera_from_landmarks(self.points(face)[JAW:], FACE_51)


def _about(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """The square (4,) that the finder starts from: about the middle of eyes and mouth. MTCNN's box has its
    middle elsewhere on a turned head, whose ear it takes in."""
    eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
    middle, half = (eyes + mouth) / 2, WIDTH / 2 * np.linalg.norm(mouth - eyes)
    return np.concatenate([middle - half, middle + half])


HEAD_CAMERAS: dict[str, Callable[[], HeadCamera]] = {MTCNN: lambda: five_points, DLIB_68: SixtyEightPoints}

# Where dlib has its last 51 points (brows, nose, eyes, lips) on a face, in EG3D's frame: the median of ten
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
