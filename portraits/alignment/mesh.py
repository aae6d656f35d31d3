"""MediaPipe's face detector and dense landmark network (Apache-2.0), from files inside its wheel.

The package `mediapipe` itself is neither installed nor imported: `ai-edge-litert` runs the networks.
"""

import logging
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.packaged_files import PackagedFile, fetched
from portraits.alignment.region import Region

log = logging.getLogger(__name__)

WHEEL = "mediapipe==0.10.14"
DETECTOR = PackagedFile(
    WHEEL,
    "mediapipe/modules/face_detection/face_detection_short_range.tflite",
    "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
)
LANDMARKS = PackagedFile(
    WHEEL,
    "mediapipe/modules/face_landmark/face_landmark.tflite",
    "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
)
FILES = (DETECTOR, LANDMARKS)
PACKAGES = {"ai_edge_litert": "ai-edge-litert", "cv2": "opencv-python-headless"}

POINTS = 468
DETECTOR_SIDE, LANDMARKS_SIDE = 128, 192
MARGIN = 1.5  # side of a region relative to the face in it, as in MediaPipe
OUTER_EYES = (33, 263)  # the outer corners of the image-left and the image-right eye
ROUNDS = 6  # iterations of landmark detection, each in the region around the previous landmarks
AVERAGED = 4  # last iterations, whose landmarks are averaged
FACE = 0.5  # least score of a face, for either network
WIDER = 1.25  # relative size of the region of a second search
LEAST_WEIGHT = 1e-6
SAME = 0.3  # regions whose centres are closer than this, in sides, are of one face


@dataclass(frozen=True)
class Mesh:
    """Dense landmarks of a face.

    Args:
        points: (468, 3) in pixels of the image (pixel centres are whole numbers); the third coordinate is a
            relative depth that increases away from the camera
        score: the network's confidence in [0, 1] that there is a face
    """

    points: NDArray[np.float64]
    score: float


def available() -> bool:
    """Whether the networks and their runtime are available. The files are downloaded on the first call; if
    that fails, one line is logged, and the five-point detector is used instead."""
    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            return _warn_once(f"the package {package} is not installed")
    reason = fetched(FILES)
    return _warn_once(reason) if reason else True


@cache
def _warn_once(reason: str) -> bool:
    log.warning("dense face landmarks: %s; five points (MTCNN) are used instead", reason)
    return False


def detect(image: NDArray[np.uint8]) -> list[Region]:
    """The upright regions of the large faces in an RGB image (H, W, 3), the most confident first."""
    height, width = image.shape[:2]
    whole = Region(np.array([width - 1, height - 1]) / 2, max(height, width))
    pixels = whole.cut(image, DETECTOR_SIDE).astype(np.float32) / np.float32(127.5) - np.float32(1)
    scores, numbers = _run(DETECTOR, pixels[None])[::-1]
    certain = _sigmoid(scores[0, :, 0].astype(np.float64))
    found: list[Region] = []
    for index in np.argsort(-certain)[: np.count_nonzero(certain >= FACE)]:
        centre, extent, *points = numbers[0, index].reshape(-1, 2).astype(np.float64) / DETECTOR_SIDE
        across = points[1] - points[0]  # from the image-left eye to the image-right one
        middle = whole.to_image((centre + _anchors()[index])[None])[0]
        region = Region(
            middle, MARGIN * float(extent.max()) * whole.side, float(np.arctan2(across[1], across[0]))
        )
        if all(np.linalg.norm(region.centre - other.centre) > SAME * other.side for other in found):
            found.append(region)
    return found


def find_mesh(image: NDArray[np.uint8], start: Region) -> Mesh:
    """The dense landmarks of the face near a region of an RGB image (H, W, 3).

    The network runs `ROUNDS` times, each time on the region around the previous landmarks with the eyes
    level, and the last `AVERAGED` results are averaged, so that the result does not depend on the face's
    tilt. If the network finds no face, as in many profiles, the search is repeated from a wider region, and
    all results are averaged, weighted by their scores.
    """
    points, scores = _search(image, start)
    if scores.mean() < FACE:
        more = _search(image, Region(start.centre, WIDER * start.side, start.roll))
        points, scores = np.concatenate([points, more[0]]), np.concatenate([scores, more[1]])
    weights = (scores + LEAST_WEIGHT) / (scores + LEAST_WEIGHT).sum()
    return Mesh(np.tensordot(weights, points, axes=1), float(weights @ scores))


def _search(image: NDArray[np.uint8], region: Region) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The last landmarks (AVERAGED, 468, 3) of a search and their scores (AVERAGED,)."""
    found, scores = [], []
    for _ in range(ROUNDS):
        points, score = _landmarks(image, region)
        found.append(points)
        scores.append(score)
        region = around(points)
    return np.stack(found[-AVERAGED:]), np.array(scores[-AVERAGED:])


def around(points: NDArray[np.float64]) -> Region:
    """The region for the landmark network's next iteration, from the previous landmarks (468, 3)."""
    left, right = points[list(OUTER_EYES), :2]
    return Region.around(points[:, :2], right - left, MARGIN)


def _landmarks(image: NDArray[np.uint8], region: Region) -> tuple[NDArray[np.float64], float]:
    pixels = region.cut(image, LANDMARKS_SIDE).astype(np.float32) / np.float32(255)
    numbers, score = _run(LANDMARKS, pixels[None])
    places = numbers.reshape(POINTS, 3).astype(np.float64) / LANDMARKS_SIDE
    points = np.concatenate([region.to_image(places[:, :2]), places[:, 2:] * region.side], axis=1)
    return points, float(_sigmoid(score.astype(np.float64)).item())


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))


def _run(file: PackagedFile, pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    network = _network(file)
    network.set_tensor(network.get_input_details()[0]["index"], pixels)
    network.invoke()
    return [network.get_tensor(output["index"]) for output in network.get_output_details()]


@cache
def _network(file: PackagedFile) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(model_content=file.read(), num_threads=1)
    network.allocate_tensors()
    return network


@cache
def _anchors() -> NDArray[np.float64]:
    """The centres (896, 2) that the detector's boxes are relative to, normalised to the image."""
    grids = []
    for cells, boxes in ((16, 2), (8, 6)):
        centres = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), boxes, axis=0))
    return np.concatenate(grids)
