"""Frames of a take: each video decoded once, from its start and frame by frame, all cameras in step.

Seeking in an MP4 lands on whatever key frame is near; counting decoded frames cannot be wrong. In step,
because then one instant of all cameras is in memory at a time, however long the take.
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
SHORT = 0.9  # a video shorter than this share of its take's usual length is remarked on


@dataclass(frozen=True)
class Picture:
    """What a camera saw: image (H, W, 3) uint8 RGB, and the foreground matte (H, W) uint8 where there is
    one."""

    image: NDArray[np.uint8]
    matte: NDArray[np.uint8] | None = None


class Footage(ABC):
    """The frames of one take. `troubles` collects (camera, what is wrong with it)."""

    def __init__(self) -> None:
        self.troubles: list[tuple[str, str]] = []

    @property
    @abstractmethod
    def instants(self) -> Sequence[int]:
        """The numbers of the frames, ascending."""

    @abstractmethod
    def read(self, instants: Sequence[int]) -> Iterator[tuple[int, dict[str, Picture]]]:
        """The pictures of the given instants, ascending, by camera; a camera that has none of it is missing.
        They are gone when the next ones are asked for: sixteen of full size are a third of a gigabyte."""


def open_footage(take: Take) -> Footage:
    """The footage of a take."""
    if take.kind == "videos":
        return VideoFootage(videos(take.folder), videos(take.mattes) if take.mattes else {})
    if take.kind == "moments":
        return StillFootage(_moments(take.folder, PAPER_IMAGES), _moments(take.folder, PAPER_MATTES))
    return StillFootage(_numbered(take.folder), _numbered(take.mattes) if take.mattes else {})


class VideoFootage(Footage):
    """An MP4 a camera, and possibly one of its mattes."""

    def __init__(self, videos: Mapping[str, Path], mattes: Mapping[str, Path]) -> None:
        super().__init__()
        self._streams = self._opened(videos)
        self._mattes = self._opened({serial: mattes[serial] for serial in mattes if serial in self._streams})
        lengths = [stream.length for stream in self._streams.values()]
        self._length = int(median(lengths)) if lengths else 0
        for serial, stream in self._streams.items():
            if stream.length < SHORT * self._length:
                self.troubles.append((serial, "the video is shorter than the other cameras'"))

    def _opened(self, videos: Mapping[str, Path]) -> dict[str, "_Stream"]:
        streams = {}
        for serial, path in videos.items():
            if not is_whole(path):
                self.troubles.append((serial, "the video file is cut off, or no MP4"))
            elif (stream := _Stream(path)).length:
                streams[serial] = stream
            else:
                stream.close()
                self.troubles.append((serial, "the video cannot be opened"))
        return streams

    @property
    def instants(self) -> Sequence[int]:
        """As many as most videos have."""
        return range(self._length)

    def read(self, instants: Sequence[int]) -> Iterator[tuple[int, dict[str, Picture]]]:
        """See `Footage.read`; once only."""
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
            self.troubles.append((serial, "the video breaks off before its end"))


class StillFootage(Footage):
    """An image a camera and frame, and possibly one of its matte: {instant: {serial: path}}."""

    def __init__(
        self, images: Mapping[int, Mapping[str, Path]], mattes: Mapping[int, Mapping[str, Path]]
    ) -> None:
        super().__init__()
        self._images, self._mattes = images, mattes
        self._instants = sorted(images)

    @property
    def instants(self) -> Sequence[int]:
        """Those that have an image."""
        return self._instants

    def read(self, instants: Sequence[int]) -> Iterator[tuple[int, dict[str, Picture]]]:
        """See `Footage.read`."""
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
            self.troubles.append((serial, "an image does not decode"))
            return None


class _Stream:
    """One video, forward only. `length` is what its header says, 0 if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        opened = self._capture.isOpened()
        width, height = (self._capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        sane = opened and 0 < width * height <= MAX_PIXELS
        self.length = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) if sane else 0
        self._next = 0

    def frame(self, number: int) -> NDArray[np.uint8] | None:
        """Frame `number` (H, W, 3) RGB, not before the last one asked for; None where the video has none."""
        while self._next <= number:
            if not self._capture.grab():
                return None
            self._next += 1
        got, image = self._capture.retrieve()
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8) if got else None

    def close(self) -> None:
        """Let go of the decoder."""
        self._capture.release()


def is_whole(path: Path) -> bool:
    """Whether an MP4 is as long as the boxes that it is made of say. One that is not may open and play, and
    end in frames that the decoder made up."""
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


def videos(folder: Path) -> dict[str, Path]:
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
