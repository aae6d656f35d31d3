"""Reading of a take's frames, in order and for all cameras together.

Videos are decoded from their start, as seeking in an MP4 is only accurate to key frames. Cameras are read in
step, so that only one instant is in memory at a time.
"""

import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.sources.nersemble.layouts import (
    MOMENT,
    NUMBERED,
    PAPER_IMAGES,
    PAPER_MATTES,
    STILL,
    VIDEO,
    Take,
)

MAX_PIXELS = 64_000_000
MAX_BOXES = 100_000
MIN_LENGTH = 0.9  # videos shorter than this share of the median are reported


@dataclass(frozen=True)
class Picture:
    """One camera's picture: image (H, W, 3) uint8 RGB, and its foreground matte (H, W) uint8, if any."""

    image: NDArray[np.uint8]
    matte: NDArray[np.uint8] | None = None


class Footage(ABC):
    """The frames of one take. `faults` collects (camera, reason) for videos and images that cannot be
    read."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []

    @property
    @abstractmethod
    def instants(self) -> Sequence[int]:
        """The numbers of the frames, in ascending order."""

    @abstractmethod
    def read(self, instants: Sequence[int]) -> Iterator[tuple[int, dict[str, Picture]]]:
        """The pictures of the given instants, in ascending order, by camera; cameras without one are left
        out.

        Only one instant is in memory at a time: sixteen pictures of full size take a third of a gigabyte."""


def open_footage(take: Take) -> Footage:
    """The footage of a take."""
    if take.kind == "videos":
        return VideoFootage(list_videos(take.folder), list_videos(take.mattes) if take.mattes else {})
    if take.kind == "moments":
        return StillFootage(_moments(take.folder, PAPER_IMAGES), _moments(take.folder, PAPER_MATTES))
    return StillFootage(_numbered(take.folder), _numbered(take.mattes) if take.mattes else {})


class VideoFootage(Footage):
    """An MP4 per camera, and possibly one of its mattes."""

    def __init__(self, videos: Mapping[str, Path], mattes: Mapping[str, Path]) -> None:
        super().__init__()
        self._streams = self._opened(videos)
        self._mattes = self._opened({serial: mattes[serial] for serial in mattes if serial in self._streams})
        lengths = [stream.length for stream in self._streams.values()]
        self._length = int(median(lengths)) if lengths else 0
        for serial, stream in self._streams.items():
            if stream.length < MIN_LENGTH * self._length:
                self.faults.append((serial, "the video is shorter than the other cameras'"))

    def _opened(self, videos: Mapping[str, Path]) -> dict[str, "_Stream"]:
        streams = {}
        for serial, path in videos.items():
            if not is_whole(path):
                self.faults.append((serial, "the video file is truncated, or no MP4"))
            elif (stream := _Stream(path)).length:
                streams[serial] = stream
            else:
                stream.close()
                self.faults.append((serial, "the video cannot be opened"))
        return streams

    @property
    def instants(self) -> Sequence[int]:
        """The instants of the median video length."""
        return range(self._length)

    def read(self, instants: Sequence[int]) -> Iterator[tuple[int, dict[str, Picture]]]:
        """As `Footage.read`; can be called once."""
        try:
            for instant in instants:
                pictures = {}
                for serial, stream in list(self._streams.items()):
                    image = stream.frame(instant)
                    if image is None:
                        self._drop(serial, stream, instant)
                        continue
                    matte = self._mattes[serial].frame(instant) if serial in self._mattes else None
                    pictures[serial] = Picture(image, None if matte is None else matte[..., 0].copy())
                yield instant, pictures
                pictures.clear()
        finally:
            for stream in (*self._streams.values(), *self._mattes.values()):
                stream.close()

    def _drop(self, serial: str, stream: "_Stream", instant: int) -> None:
        stream.close()
        del self._streams[serial]
        if instant < stream.length:
            self.faults.append((serial, "the video ends early"))


class StillFootage(Footage):
    """An image per camera and instant, {instant: {serial: path}}, and possibly one of its matte."""

    def __init__(
        self, images: Mapping[int, Mapping[str, Path]], mattes: Mapping[int, Mapping[str, Path]]
    ) -> None:
        super().__init__()
        self._images, self._mattes = images, mattes
        self._instants = sorted(images)

    @property
    def instants(self) -> Sequence[int]:
        """The instants that have an image."""
        return self._instants

    def read(self, instants: Sequence[int]) -> Iterator[tuple[int, dict[str, Picture]]]:
        """As `Footage.read`."""
        for instant in instants:
            mattes = self._mattes.get(instant, {})
            pictures = {}
            for serial, path in sorted(self._images[instant].items()):
                image = self._open(serial, path, "RGB")
                if image is not None:
                    matte = self._open(serial, mattes[serial], "L") if serial in mattes else None
                    pictures[serial] = Picture(image, matte)
            yield instant, pictures
            pictures.clear()

    def _open(self, serial: str, path: Path, mode: str) -> NDArray[np.uint8] | None:
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError("too large")
                return np.array(image.convert(mode))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            self.faults.append((serial, "an image does not decode"))
            return None


class _Stream:
    """A video, read forwards. `length` is the number of frames in its header, 0 if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        opened = self._capture.isOpened()
        width, height = (self._capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        sane = opened and 0 < width * height <= MAX_PIXELS
        self.length = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) if sane else 0
        self._next = 0

    def frame(self, number: int) -> NDArray[np.uint8] | None:
        """Frame `number` (H, W, 3) RGB, or None if it cannot be decoded; numbers must not decrease."""
        while self._next <= number:
            if not self._capture.grab():
                return None
            self._next += 1
        got, image = self._capture.retrieve()
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8) if got else None

    def close(self) -> None:
        """Release the decoder."""
        self._capture.release()


def is_whole(path: Path) -> bool:
    """Whether an MP4 has the length that its boxes declare. A truncated one may still open and play, and then
    ends in frames that the decoder extrapolates."""
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        for _ in range(MAX_BOXES):
            if place >= size:
                break
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            elif length == 0:
                return True
            if length < 8:
                return False
            place += length
    return 0 < place == size


def list_videos(folder: Path) -> dict[str, Path]:
    """The MP4s in a folder by camera."""
    matches = ((VIDEO.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return {match[1]: path for match, path in matches if match}


def _moments(folder: Path, images: str) -> dict[int, dict[str, Path]]:
    found: dict[int, dict[str, Path]] = {}
    for moment in sorted(folder.iterdir()):
        match = MOMENT.fullmatch(moment.name)
        if match and (moment / images).is_dir():
            cameras = ((STILL.fullmatch(path.name), path) for path in sorted((moment / images).iterdir()))
            found[int(match[1])] = {camera[1]: path for camera, path in cameras if camera}
    return found


def _numbered(folder: Path) -> dict[int, dict[str, Path]]:
    found: dict[int, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        match = NUMBERED.fullmatch(path.name)
        if match:
            found[int(match[2])][match[1]] = path
    return dict(found)
