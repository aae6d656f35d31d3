"""The schema of samples, and their encoding as tar members.

A sample is one frame: K calibrated views of one person at one instant and, for each view, a condition image
of another person at the same camera. K views, S image side.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.arrays import parse_npy
from core.errors import InputError
from portraits.cameras import LABEL_SIZE, check_labels
from portraits.pixels import Images

SCHEMA_VERSION = 1
Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
CAMERAS = "cameras.npy"
META = "meta.json"
LATENTS = "latents.npz"
JPEG_QUALITY = 95
MAX_KEY = 80  # characters; with the longest member name they fit a USTAR header
MAX_META_BYTES = 1 << 20

_VIEW = re.compile(r"view_(\d{2,3})\.jpg")
_KEY_PART = re.compile(r"[A-Za-z0-9_+=@]+(-[A-Za-z0-9_+=@]+)*")


class SampleError(ValueError):
    """A sample is damaged; the message gives the reason. Streams skip and count damaged samples."""


@dataclass(frozen=True)
class SampleMeta:
    """The metadata of a sample.

    `alignment` is the convention of the crop (`"eg3d"`), `licence` the terms of use of the images,
    `attributes` are JSON values of the source. Raises InputError for names that cannot be part of a key.
    """

    source: str
    identity: str
    split: str
    sequence: str
    instant: str
    alignment: str
    licence: str
    schema_version: int = SCHEMA_VERSION
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("source", "identity", "sequence", "instant"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _KEY_PART.fullmatch(value):
                raise InputError(
                    f"{name} {value!r}: use letters, digits, '_', '+', '=', '@' and inner '-' only"
                )
        if self.split not in SPLITS:
            raise InputError(f"split {self.split!r} of {self.key} is not one of {', '.join(SPLITS)}")
        if len(self.key) > MAX_KEY:
            raise InputError(f"the key {self.key} is longer than {MAX_KEY} characters: shorten its parts")

    @property
    def key(self) -> str:
        """The name of the sample, unique in its source."""
        return f"{self.source}-{self.identity}-{self.sequence}-{self.instant}"


@dataclass(frozen=True)
class Sample:
    """One frame.

    `views` and `conditions` are (K, S, S, 3) uint8 RGB, `cameras` (K, 25) float32 EG3D labels, `masks`
    (K, S, S) uint8 with 255 for the foreground, and `latents` the undecoded content of latents.npz.

    Raises InputError for wrong shapes and types and for invalid cameras.
    """

    meta: SampleMeta
    views: Images
    conditions: Images
    cameras: NDArray[np.float32]
    masks: Images | None = None
    latents: bytes | None = None

    def __post_init__(self) -> None:
        count, size = self.views.shape[:2]
        expected: dict[str, tuple[int, ...]] = {
            "views": (count, size, size, 3),
            "conditions": (count, size, size, 3),
        }
        if self.masks is not None:
            expected["masks"] = (count, size, size)
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.uint8:
                raise InputError(f"{self.key}: {name} are {array.dtype} {array.shape}, not uint8 {shape}")
        check_labels(self.cameras, self.key)
        if count == 0 or len(self.cameras) != count:
            raise InputError(f"{self.key}: {len(self.cameras)} cameras for {count} views")

    @property
    def key(self) -> str:
        """The name of the sample, unique in its source."""
        return self.meta.key


def view_name(index: int) -> str:
    """The member of view `index`."""
    return f"view_{index:02d}.jpg"


def condition_name(index: int) -> str:
    """The member of the condition of view `index`."""
    return f"condition_{index:02d}.jpg"


def mask_name(index: int) -> str:
    """The member of the foreground mask of view `index`."""
    return f"mask_{index:02d}.png"


def count_views(members: Iterable[str]) -> int:
    """The number of views of a sample with these members.

    Raises SampleError naming missing members: views from 00 without gaps, a condition for each, cameras,
    metadata.
    """
    names = set(members)
    count = sum(1 for name in names if _VIEW.fullmatch(name))
    wanted = {META, CAMERAS, *map(view_name, range(count)), *map(condition_name, range(count))}
    missing = sorted(wanted - names) or ([view_name(0)] if count == 0 else [])
    if missing:
        raise SampleError(f"it has no {', '.join(missing[:4])}")
    return count


def encode(sample: Sample) -> dict[str, bytes]:
    """Encode a sample as tar members by name, in the order of writing. Deterministic."""
    members = {META: _json(asdict(sample.meta)), CAMERAS: _npy(sample.cameras)}
    for index, (view, condition) in enumerate(zip(sample.views, sample.conditions, strict=True)):
        members[view_name(index)] = _image(view, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        members[condition_name(index)] = _image(condition, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    for index, mask in enumerate(() if sample.masks is None else sample.masks):
        members[mask_name(index)] = _image(mask, "PNG")
    if sample.latents is not None:
        members[LATENTS] = sample.latents
    return members


def decode(
    members: Mapping[str, bytes], views: Sequence[int] | None = None, size: int | None = None
) -> Sample:
    """Decode a sample from its members, with all of its views or only those in `views`, in that order.

    Images must be square and of one size, which is `size` if given. Members that are not in the schema are
    ignored. Raises SampleError if the sample is damaged, and InputError for an unknown schema version.
    """
    count = count_views(members)
    chosen = range(count) if views is None else views
    meta = decode_meta(members[META])
    cameras = decode_cameras(members[CAMERAS], count)[list(chosen)]
    size = size or image_side(members[view_name(chosen[0])])
    masked = mask_name(0) in members
    if masked and not all(mask_name(i) in members for i in chosen):
        raise SampleError("it has masks for some views only")
    return Sample(
        meta=meta,
        views=np.stack([decode_image(members[view_name(i)], size) for i in chosen]),
        conditions=np.stack([decode_image(members[condition_name(i)], size) for i in chosen]),
        cameras=cameras,
        masks=np.stack([decode_mask(members[mask_name(i)], size) for i in chosen]) if masked else None,
        latents=members.get(LATENTS),
    )


def decode_meta(data: bytes) -> SampleMeta:
    """Decode the metadata of a sample.

    Raises SampleError if it is damaged, and InputError for an unknown schema version."""
    if len(data) > MAX_META_BYTES:
        raise SampleError(f"{META} has {len(data)} bytes, more than {MAX_META_BYTES}")
    try:
        values = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SampleError(f"{META} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SampleError(f"{META} is not an object")
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"schema version {version!r} is not supported (only {SCHEMA_VERSION})")
    names = {f.name for f in fields(SampleMeta)}
    if set(values) != names:
        raise SampleError(f"{META} has other fields than expected: {', '.join(sorted(set(values) ^ names))}")
    try:
        return SampleMeta(**values)
    except InputError as error:
        raise SampleError(f"{META}: {error}") from error


def decode_cameras(data: bytes, count: int) -> NDArray[np.float32]:
    """Decode the cameras (count, 25) float32 of a sample. Raises SampleError for any other array and for
    invalid cameras."""
    try:
        cameras = parse_npy(data)
    except ValueError as error:
        raise SampleError(f"{CAMERAS}: {error}") from error
    if cameras.dtype != np.dtype("<f4") or cameras.shape != (count, LABEL_SIZE):
        raise SampleError(
            f"{CAMERAS} holds {cameras.dtype} {cameras.shape}, not float32 {(count, LABEL_SIZE)}"
        )
    try:
        return check_labels(cameras, CAMERAS)
    except InputError as error:
        raise SampleError(str(error)) from error


def image_side(data: bytes) -> int:
    """The side of a square JPEG, from its header. Raises SampleError."""
    width, height = _open(data, "JPEG").size
    if width != height:
        raise SampleError(f"an image is {width}x{height}, not square")
    return width


def decode_image(data: bytes, size: int) -> Images:
    """Decode a JPEG of `size`×`size` pixels to (S, S, 3) uint8 RGB, after its header is checked. Raises
    SampleError."""
    return _pixels(data, "JPEG", "RGB", size)


def decode_mask(data: bytes, size: int) -> Images:
    """Decode a grey PNG of `size`×`size` pixels to (S, S) uint8, after its header is checked. Raises
    SampleError."""
    return _pixels(data, "PNG", "L", size)


def _pixels(data: bytes, kind: str, mode: str, size: int) -> Images:
    image = _open(data, kind)
    if image.size != (size, size) or image.mode != mode:
        width, height = image.size
        raise SampleError(f"an image is {width}x{height} {image.mode}, not {size}x{size} {mode}")
    try:
        return np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise SampleError(f"an image does not decode: {error}") from error


def _open(data: bytes, kind: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=[kind])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SampleError(f"an image is not a {kind}") from error


def _image(array: Images, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def _npy(array: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array, "<f4"), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _json(values: Mapping[str, Any]) -> bytes:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")  # names of files may not be UTF-8
