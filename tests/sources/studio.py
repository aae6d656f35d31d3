"""A capture studio like NeRSemble's: 16 cameras around a head, written to disk in each of its layouts.

The head is translated and rotated from the world's origin; the world is in metres; cameras are OpenCV's, in
portrait format, at a fraction of the real resolution. Images show five dots at the landmarks, or a rendered
head.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from portraits.alignment.head import HeadFrame
from portraits.geometry import STANDARD_LANDMARKS, reproject
from shards.sources.nersemble.calibration import FULL_SIZE, PinholeCamera
from tests.faces import DOTS

SERIALS = (
    *("222200042", "222200044", "222200046", "222200040", "222200036", "222200048", "220700191", "222200041"),
    *("222200037", "222200038", "222200047", "222200043", "222200049", "222200039", "222200045", "221501007"),
)
WIDTH, HEIGHT = 220, 320
FRAMES = 5
FULL_INTRINSICS = np.array([[7400.0, 0.0, 1104.0], [0.0, 7400.0, 1598.0], [0.0, 0.0, 1.0]])
AFFINE = np.array([[0.86, 0.03, 0.02, 0.04], [0.02, 0.88, 0.01, 0.03], [0.01, 0.02, 0.9, 0.05]])
POLYNOMIAL = np.array([[0.6, 0.05, 0.02], [0.04, 0.65, 0.03], [0.02, 0.04, 0.7]])

Pictures = Mapping[str, NDArray[np.uint8]]
Painter = Callable[["Studio", str], NDArray[np.uint8]]

HEAD = HeadFrame(
    2.62,
    Rotation.from_euler("yxz", (17.0, -9.0, 6.0), degrees=True).as_matrix(),
    np.array([0.15, -0.4, 0.2]),
)


@dataclass(frozen=True)
class Studio:
    """The head and the 16 cameras, `behind` of which are behind the head."""

    head: HeadFrame = HEAD
    behind: int = 2
    cameras: dict[str, PinholeCamera] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", dict(zip(SERIALS, self._cameras(), strict=True)))

    def _cameras(self) -> list[PinholeCamera]:
        centre = self.head.world(np.zeros((1, 3)))[0]
        cameras = []
        for index in range(16):
            yaw = np.radians(
                np.linspace(-46, 46, 16)[index] if index < 16 - self.behind else 170 + 10 * (index - 15)
            )
            pitch = np.radians(16 if index % 2 else -8)
            way = np.array([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
            position = centre + (1.0 + 0.02 * (index % 4)) * way
            forward = np.add(centre, (0.01 * (index % 3), 0.01, 0)) - position
            forward /= np.linalg.norm(forward)
            right = np.cross(forward, (0.05, 1.0, 0.0))
            right /= np.linalg.norm(right)
            rotation = np.stack([right, np.cross(forward, right), forward])
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = rotation, -rotation @ position
            cameras.append(PinholeCamera(pose, FULL_INTRINSICS, FULL_SIZE))
        return cameras

    def scaled(self, serial: str) -> PinholeCamera:
        """A camera at the images' resolution."""
        return self.cameras[serial].at(WIDTH, HEIGHT)

    def pictures(self, paint: Painter) -> dict[str, NDArray[np.uint8]]:
        """The image (HEIGHT, WIDTH, 3) of every camera."""
        return {serial: paint(self, serial) for serial in self.cameras}

    def calibration(self, own_intrinsics: bool = False) -> dict[str, object]:
        """The contents of camera_params.json, optionally with intrinsics per camera at the images'
        resolution."""
        poses = {serial: camera.world_to_camera.tolist() for serial, camera in self.cameras.items()}
        own = {serial: self.scaled(serial).intrinsics.tolist() for serial in self.cameras}
        return {"world_2_cam": poses, "intrinsics": own if own_intrinsics else FULL_INTRINSICS.tolist()}


def paint_dots(studio: Studio, serial: str) -> NDArray[np.uint8]:
    """A dark image with a dot at each landmark, unless the camera is behind the head."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    picture = np.stack([40 + rows // 8, 50 + columns // 8, 60 + rows // 16], axis=-1).astype(np.uint8)
    camera = studio.scaled(serial)
    facing = studio.head.camera(camera.pose)[2, 3] > 0
    for point, colour in zip(studio.head.world(STANDARD_LANDMARKS), DOTS, strict=True):
        if facing:
            x, y = reproject(camera.projection[None], point)[0]
            place = (round(x * 16), round(y * 16))
            cv2.circle(picture, place, 3 * 16, colour, -1, cv2.LINE_AA, shift=4)
    return picture


def at_instant(picture: NDArray[np.uint8], instant: int) -> NDArray[np.uint8]:
    """The image at an instant, which the grey level of its last rows encodes."""
    marked = picture.copy()
    marked[-16:] = 30 * instant + 20
    return marked


def matte(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask with everything but a margin at the sides as foreground."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[:, 30:-30] = 255
    return mask


def write_video(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    """Write RGB or grey frames as an MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 73.0, (width, height))
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 100)
    for frame in frames:
        colour = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)
        writer.write(cv2.cvtColor(colour, cv2.COLOR_RGB2BGR))
    writer.release()


def with_index_first(video: bytes) -> bytes:
    """An MP4 with its index before its frames, as for streaming: it opens even if truncated."""
    boxes, place = {}, 0
    while place < len(video):
        length, kind = struct.unpack_from(">I4s", video, place)
        boxes[kind] = video[place : place + length]
        place += length
    index = bytearray(boxes.pop(b"moov"))
    table = index.index(b"stco") + 12
    for entry in range(struct.unpack_from(">I", index, table - 4)[0]):
        (offset,) = struct.unpack_from(">I", index, table + 4 * entry)
        struct.pack_into(">I", index, table + 4 * entry, offset + len(index))
    return boxes.pop(b"ftyp") + bytes(index) + b"".join(boxes.values())


def write_json(path: Path, values: object) -> None:
    """Write JSON, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}))


def _videos(folder: Path, pictures: Pictures, masks: bool = False) -> None:
    for serial, picture in pictures.items():
        frames = [matte(picture) if masks else at_instant(picture, t) for t in range(FRAMES)]
        write_video(folder / f"cam_{serial}.mp4", frames)


def write_v2(root: Path, person: str, sequence: str, studio: Studio, pictures: Pictures) -> None:
    """Write the layout of the second release."""
    _videos(root / person / "sequences" / sequence / "images", pictures)
    write_json(root / person / "calibration" / "camera_params.json", studio.calibration())


def write_benchmark(root: Path, person: str, sequence: str, studio: Studio, pictures: Pictures) -> None:
    """Write the layout of the benchmark's novel-view part: intrinsics per camera, with mattes."""
    folder = root / "nvs" / person
    _videos(folder / "sequences" / sequence / "images", pictures)
    _videos(folder / "sequences" / sequence / "alpha_maps", pictures, masks=True)
    write_json(folder / "calibration" / "camera_params.json", studio.calibration(own_intrinsics=True))


def write_v1(root: Path, person: str, sequence: str, studio: Studio, pictures: Pictures) -> None:
    """Write the layout of the first release's archives, unpacked side by side."""
    _videos(root / f"sequence_{sequence}_part-3" / person / sequence, pictures)
    write_json(root / "camera_params" / person / "camera_params.json", studio.calibration())


def write_paper(root: Path, person: str, sequence: str, studio: Studio, pictures: Pictures) -> None:
    """Write the layout of the paper's release: a folder per frame."""
    for t in range(FRAMES):
        moment = root / person / "sequences" / sequence / f"frame_{t:05d}"
        for serial, picture in pictures.items():
            write_image(moment / "images-2x-73fps" / f"cam_{serial}.png", at_instant(picture, t))
            write_image(moment / "alpha_map-73fps" / f"cam_{serial}.png", matte(picture))
    write_json(root / person / "camera_params.json", studio.calibration())


def write_vhap(root: Path, person: str, sequence: str, studio: Studio, pictures: Pictures) -> None:
    """Write the layout that VHAP extracts."""
    folder = root / person / "sequences" / sequence
    for t in range(FRAMES):
        for serial, picture in pictures.items():
            write_image(folder / "images" / f"cam_{serial}_{t:06d}.jpg", at_instant(picture, t))
            write_image(folder / "alpha_maps" / f"cam_{serial}_{t:06d}.jpg", matte(picture))
    write_json(root / person / "calibration" / "camera_params.json", studio.calibration())


LAYOUTS = {
    "benchmark": write_benchmark,
    "v2": write_v2,
    "v1": write_v1,
    "paper": write_paper,
    "vhap": write_vhap,
}
