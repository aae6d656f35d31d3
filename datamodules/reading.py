"""Reading of the drawn views of frames, and collation into batches.

B frames, R references, V targets, S image side.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import InputError
from datamodules.order import Draw, draw_reconstruction, draw_views
from portraits.pixels import Images
from shards.frames import Frame, FrameSet
from shards.latents import decode_latents
from shards.schema import (
    CAMERAS,
    LATENTS,
    META,
    SampleError,
    SampleMeta,
    condition_name,
    count_views,
    decode_cameras,
    decode_image,
    decode_meta,
    view_name,
)

Batch = dict[str, Any]
Protocol = Literal["novel_view", "reconstruction"]

MAX_IN_A_ROW = 50
FLOAT_BYTES = 4


class Moments(NamedTuple):
    """Cached posterior moments of references (R, 2C, H, W), targets (V, 2C, H, W), and both mirrored.

    They are float16: mean, then log variance."""

    reference: NDArray[np.float16]
    target: NDArray[np.float16]
    reference_mirrored: NDArray[np.float16]
    target_mirrored: NDArray[np.float16]


@dataclass(frozen=True)
class Item:
    """The drawn views of one frame.

    References are (R, S, S, 3) and targets (V, S, S, 3) uint8, or None if `moments` holds their latents.
    Conditions are (V, S, S, 3) uint8, or None if they are not read. Cameras are (R, 25) and (V, 25).
    `other_reference` (R, S, S, 3) uint8 are another person's, if they are read; `other_valid` is False if
    there is no other person. `skipped` lists the damaged frames that this one replaces."""

    key: str
    identity: str
    reference: Images | None
    target: Images | None
    condition: Images | None
    reference_camera: NDArray[np.float32]
    camera: NDArray[np.float32]
    moments: Moments | None = None
    other_reference: Images | None = None
    other_valid: bool | None = None
    position: int = -1
    valid: bool = True
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ViewReader:
    """Reads `references` and `targets` views of a frame, of `image_size` pixels, and with `conditions` the
    targets' conditions.

    In the protocol "reconstruction" the references are the targets, so that one view is enough. If `vae` is
    given, frames with cached latents of the VAE of this fingerprint are read as latents and not as images.
    """

    image_size: int
    references: int
    targets: int
    conditions: bool
    protocol: Protocol = "novel_view"
    vae: str | None = None

    @property
    def views(self) -> int:
        """The number of views that a frame must have."""
        return self.references + (self.targets if self.protocol == "novel_view" else 0)

    @property
    def bytes(self) -> int:
        """The size of the images of a frame in a batch."""
        images = self.references + self.targets * (2 if self.conditions else 1)
        return images * 3 * self.image_size**2 * FLOAT_BYTES

    def draw(self, random: np.random.Generator, count: int) -> Draw:
        """Draw references and targets from the `count` views of a frame."""
        if self.protocol == "reconstruction":
            return draw_reconstruction(random, count, self.references)
        return draw_views(random, count, self.references, self.targets)

    def read(self, frame: Frame, split: str, random: np.random.Generator) -> Item:
        """Draw views of `frame` and decode only those.

        Raises SampleError if the frame is damaged or has too few views, and InputError if its metadata
        have another split than `split`."""
        count = count_views(frame.members)
        if count < self.views:
            raise SampleError(f"it has {count} views, {self.views} are drawn")
        draw = self.draw(random, count)
        data = frame.read([META, CAMERAS])
        meta = decode_meta(data[META])
        if meta.split != split:
            raise InputError(
                f"{frame.path}: the sample {frame.key} is of the split {meta.split}, not {split}"
            )
        cameras = decode_cameras(data[CAMERAS], count)
        moments = self._moments(frame, count, draw)
        return Item(
            key=frame.key,
            identity=_identity(meta),
            reference=self._images(frame, map(view_name, draw.references)) if moments is None else None,
            target=self._images(frame, map(view_name, draw.targets)) if moments is None else None,
            condition=self._images(frame, map(condition_name, draw.targets)) if self.conditions else None,
            reference_camera=cameras[list(draw.references)],
            camera=cameras[list(draw.targets)],
            moments=moments,
        )

    def identity(self, frame: Frame) -> str:
        """The frame's identity, as in `Item.identity`. Raises SampleError if the frame is damaged."""
        return _identity(decode_meta(frame.read([META])[META]))

    def read_references(self, frame: Frame, random: np.random.Generator) -> Images:
        """Only the references (R, S, S, 3) uint8 that `read` draws. Raises SampleError as `read`."""
        count = count_views(frame.members)
        if count < self.views:
            raise SampleError(f"it has {count} views, {self.views} are drawn")
        return self._images(frame, map(view_name, self.draw(random, count).references))

    def _images(self, frame: Frame, members: Iterable[str]) -> Images:
        return np.stack([decode_image(x, self.image_size) for x in frame.read(members).values()])

    def _moments(self, frame: Frame, count: int, draw: Draw) -> Moments | None:
        """The cached moments of the drawn views, or None if there are none of this VAE."""
        if self.vae is None or LATENTS not in frame.members:
            return None
        latents = decode_latents(frame.read([LATENTS])[LATENTS], count)
        if latents.fingerprint != self.vae:
            return None
        drawn = (list(draw.references), list(draw.targets))
        return Moments(*(views[chosen] for views in (latents.views, latents.mirrored) for chosen in drawn))


def _identity(meta: SampleMeta) -> str:
    """A person's name, unique over sources."""
    return f"{meta.source}-{meta.identity}"


def first_readable(
    frames: FrameSet,
    number_of: Callable[[int], int],
    reader: ViewReader,
    random: Callable[[str], np.random.Generator],
) -> Item:
    """Read the first undamaged one of the frames `number_of(0)`, `number_of(1)` …, with views drawn by
    `random(key)`.

    Its `skipped` lists the damaged ones before it. Raises InputError if `MAX_IN_A_ROW` successive frames, or
    all frames, are damaged.
    """
    skipped: list[str] = []
    attempts = min(MAX_IN_A_ROW, len(frames))
    for attempt in range(attempts):
        frame = frames.frame(number_of(attempt))
        try:
            return replace(reader.read(frame, frames.split, random(frame.key)), skipped=skipped)
        except SampleError as error:
            skipped.append(f"{frames.name}: {frame.key}: {error}")
    raise InputError(
        f"source {frames.name}: {attempts} frames in a row cannot be used, the last: {skipped[-1]}"
    )


def collate(items: Sequence[Item]) -> Batch:
    """Collate items into a batch.

    It holds reference (B, R, 3, S, S), target and condition (B, V, 3, S, S), float32 in [-1, 1];
    reference_camera (B, R, 25) and camera (B, V, 25), float32 EG3D labels; position (B,) int64 in the stream;
    valid (B,) bool, False for frames that pad the last batch of an evaluation; and key, identity and skipped,
    lists of str.

    If all items have moments, reference and target are replaced by reference_moments (B, R, 2C, H, W) and
    target_moments (B, V, 2C, H, W), float32, mean and log variance, and by reference_mirrored_moments and
    target_mirrored_moments of the mirrored images.

    Items with another person's references add other_reference (B, R, 3, S, S) and other_valid (B,) bool,
    which is False for rows without another person; these are zero.
    """
    batch: Batch = {
        "reference_camera": torch.from_numpy(np.stack([item.reference_camera for item in items])),
        "camera": torch.from_numpy(np.stack([item.camera for item in items])),
        "position": torch.tensor([item.position for item in items]),
        "valid": torch.tensor([item.valid for item in items]),
        "key": [item.key for item in items],
        "identity": [item.identity for item in items],
        "skipped": [message for item in items for message in item.skipped],
    }
    for name in ("reference", "target", "condition"):
        images = [found for item in items if (found := getattr(item, name)) is not None]
        if images:
            batch[name] = _to_tensor(images)
    if any(item.other_valid is not None for item in items):
        batch |= _others(items)
    moments = [item.moments for item in items if item.moments is not None]
    for name, arrays in zip(Moments._fields, zip(*moments, strict=True), strict=False):
        batch[f"{name}_moments"] = torch.from_numpy(np.stack(arrays).astype(np.float32))
    return batch


def _others(items: Sequence[Item]) -> Batch:
    """Another person's references for each item; zeros if there is no other person."""
    given = [item.reference if item.other_reference is None else item.other_reference for item in items]
    valid = torch.tensor([bool(item.other_valid) for item in items])
    images = _to_tensor([images for images in given if images is not None])
    return {"other_reference": images * valid.view(-1, 1, 1, 1, 1), "other_valid": valid}


def _to_tensor(images: Sequence[Images]) -> Tensor:
    """Stack B arrays (N, S, S, 3) uint8 into one tensor (B, N, 3, S, S) float32 in [-1, 1].

    NumPy uses one thread; torch's threads would wait for each other if all cores are busy.
    """
    count, side = images[0].shape[:2]
    values = np.empty((len(images), count, 3, side, side), dtype=np.float32)
    for frame, image in zip(values, images, strict=True):
        np.divide(image.transpose(0, 3, 1, 2), np.float32(127.5), out=frame)
        frame -= 1
    return torch.from_numpy(values)
