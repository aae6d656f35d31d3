"""Reading the drawn views of a frame, and making batches of them.

B frames, R references, V targets, S image side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.order import Draw, draw_views
from shards.errors import InputError
from shards.frames import Frame, FrameSet
from shards.latents import decode_latents
from shards.schema import (
    CAMERAS,
    LATENTS,
    META,
    Images,
    SampleError,
    condition_name,
    count_views,
    decode_cameras,
    decode_image,
    decode_meta,
    view_name,
)

Batch = dict[str, Any]

MAX_IN_A_ROW = 50


class Moments(NamedTuple):
    """Cached posterior moments of references (R, 2C, H, W) and targets (V, 2C, H, W), float16: mean, then log
    variance; `vae` is the fingerprint of the VAE that made them."""

    vae: str
    reference: NDArray[np.float16]
    target: NDArray[np.float16]


@dataclass(frozen=True)
class Item:
    """The drawn views of one frame: references (R, S, S, 3), targets and conditions (V, S, S, 3) uint8, and
    their cameras (R, 25) and (V, 25); cached latents' `moments` where the frame has them. `skipped` names
    damaged frames this one stands in for."""

    key: str
    identity: str
    reference: Images
    target: Images
    condition: Images | None
    reference_camera: NDArray[np.float32]
    camera: NDArray[np.float32]
    moments: Moments | None = None
    position: int = -1
    valid: bool = True
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ViewReader:
    """What is read of a frame: `references` and `targets` views, and the targets' conditions if `conditions`,
    all `image_size` pixels wide."""

    image_size: int
    references: int
    targets: int
    conditions: bool

    @property
    def views(self) -> int:
        """How many views a frame must have."""
        return self.references + self.targets

    def read(self, frame: Frame, split: str, random: np.random.Generator) -> Item:
        """Draw views of `frame` and decode those only. Raises SampleError where the frame is damaged or has
        too few views, and InputError where it belongs to another split than the one it was found in."""
        count = count_views(frame.members)
        if count < self.views:
            raise SampleError(f"it has {count} views, {self.views} are drawn")
        draw = draw_views(random, count, self.references, self.targets)
        conditions = [condition_name(i) for i in draw.targets] if self.conditions else []
        references, targets = ([view_name(i) for i in chosen] for chosen in (draw.references, draw.targets))
        cached = [LATENTS] if LATENTS in frame.members else []
        data = frame.read([META, CAMERAS, *references, *targets, *conditions, *cached])
        meta = decode_meta(data[META])
        if meta.split != split:
            raise InputError(
                f"{frame.path}: the sample {frame.key} is of the split {meta.split}, not {split}"
            )
        cameras = decode_cameras(data[CAMERAS], count)
        return Item(
            key=frame.key,
            identity=f"{meta.source}-{meta.identity}",
            reference=self._images(data, references),
            target=self._images(data, targets),
            condition=self._images(data, conditions) if self.conditions else None,
            reference_camera=cameras[list(draw.references)],
            camera=cameras[list(draw.targets)],
            moments=_moments(data[LATENTS], count, draw) if cached else None,
        )

    def _images(self, data: dict[str, bytes], names: Sequence[str]) -> Images:
        images = np.empty((len(names), self.image_size, self.image_size, 3), dtype=np.uint8)
        for image, name in zip(images, names, strict=True):
            image[:] = decode_image(data[name], self.image_size)
        return images


def _moments(data: bytes, count: int, draw: Draw) -> Moments:
    latents = decode_latents(data, count)
    views = latents.views
    return Moments(latents.fingerprint, views[list(draw.references)], views[list(draw.targets)])


def first_readable(
    frames: FrameSet,
    number_of: Callable[[int], int],
    reader: ViewReader,
    random: Callable[[str], np.random.Generator],
) -> Item:
    """The first undamaged frame among `number_of(0)`, `number_of(1)` …, drawn with `random(key)`; the damaged
    ones are named in its `skipped`. Raises InputError where `MAX_IN_A_ROW` are damaged, or all there are."""
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
    """Items to a batch.

    reference (B, R, 3, S, S), target and condition (B, V, 3, S, S) float32 in [-1, 1]; reference_camera (B,
    R, 25) and camera (B, V, 25) float32 EG3D labels; position (B,) int64 in the stream; valid (B,) bool,
    False for what only fills up the last batch of an evaluation; key, identity and skipped are lists of str.
    Where all frames have latents of one VAE: reference_moments (B, R, 2C, H, W) and target_moments (B, V, 2C,
    H, W) float32, mean and log variance, and `vae`, that VAE's fingerprint.
    """
    batch: Batch = {
        "reference": _to_tensor([item.reference for item in items]),
        "target": _to_tensor([item.target for item in items]),
        "reference_camera": torch.from_numpy(np.stack([item.reference_camera for item in items])),
        "camera": torch.from_numpy(np.stack([item.camera for item in items])),
        "position": torch.tensor([item.position for item in items]),
        "valid": torch.tensor([item.valid for item in items]),
        "key": [item.key for item in items],
        "identity": [item.identity for item in items],
        "skipped": [message for item in items for message in item.skipped],
    }
    conditions = [item.condition for item in items if item.condition is not None]
    if conditions:
        batch["condition"] = _to_tensor(conditions)
    moments = [item.moments for item in items if item.moments is not None]
    if len(moments) == len(items) and len({cached.vae for cached in moments}) == 1:
        for name in ("reference", "target"):
            arrays = np.stack([getattr(cached, name) for cached in moments])
            batch[f"{name}_moments"] = torch.from_numpy(arrays.astype(np.float32))
        batch["vae"] = moments[0].vae
    return batch


def _to_tensor(images: Sequence[Images]) -> Tensor:
    """B times (N, S, S, 3) uint8 to (B, N, 3, S, S) float32 in [-1, 1].

    By NumPy, in one thread: where cores are busy, torch's threads would wait for each other longer than this
    takes.
    """
    count, side = images[0].shape[:2]
    values = np.empty((len(images), count, 3, side, side), dtype=np.float32)
    for frame, image in zip(values, images, strict=True):
        np.divide(image.transpose(0, 3, 1, 2), np.float32(127.5), out=frame)
        frame -= 1
    return torch.from_numpy(values)
