"""`python -m shards.build panohead`: folders of labelled images of generated heads (PanoHead's, EG3D's) →
frames.

A folder has images with their labels in `dataset.json` or `label.json` (EG3D's format; PanoHead writes the
numbers as strings), or one `<image>.npy` or `<image>.json` each. Images of one identity are one frame.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.arrays import parse_npy
from core.errors import InputError
from generators.registry import RendererChoice, check_renderer, renderer_record
from portraits.alignment.detection import FaceDetector, choose
from portraits.alignment.head import HeadFrame, NoHeadError, locate_head
from portraits.alignment.photos import SUFFIXES, open_photo
from portraits.alignment.virtual import virtual_view
from portraits.cameras import LABEL_SIZE, check_labels, split_label
from shards.conditions import RenderedConditions
from shards.schema import Sample, SampleMeta
from shards.skips import Skip
from shards.sources.names import key_name
from shards.sources.splits import Shares, split_by_hash

LABEL_FILES = ("dataset.json", "label.json")
MAX_LABEL_BYTES = 1 << 30
MAX_LABEL_FILE_BYTES = 1 << 16
MASK_FOLDERS = ("masks", "mask")
SINGLE_IMAGE = re.compile(r"\d{5}/img\d{8}\.\w+")
VIEW_NUMBER = re.compile(r"(.+?)[_-]([^_-]+)")


@dataclass(frozen=True)
class Head:
    """One unit of work: the labelled images of one identity, (relative path, label or None) by name."""

    identity: str
    split: str
    images: tuple[tuple[str, tuple[float, ...] | None], ...]


class _Picture(NamedTuple):
    """A square image (S, S, 3), its mask (S, S) and label (25,)."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    label: NDArray[np.float32]

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        """(3, 3), in pixels whose centres are whole numbers."""
        side = len(self.image)
        to_pixels = np.array([[side, 0, -0.5], [0, side, -0.5], [0, 0, 1]])
        return to_pixels @ split_label(self.label.astype(np.float64))[1]


@dataclass(eq=False)
class PanoHeadFolder(RenderedConditions):
    """One frame for each identity of a folder, of all its images.

    An image belongs to the identity that its folder is named after, or, where all lie in one folder, to what
    its name says before the last `_` or `-`.

    Args:
        root: the folder of images and labels
        size: image side in pixels
        convention: eg3d takes images and labels as they are; panohead finds the head's frame by landmarks and
            turns its cameras, which look at the head's middle, to EG3D's pivot
        val_share: the share of identities kept for validation
        test_share: the share kept for testing
        conditions: the renderer of the condition images: synthetic, eg3d:FOLDER, panohead:FOLDER, or
            a GAN's options
        min_views: identities with fewer usable images are skipped
        max_views: of identities with more images, this many are taken, evenly spaced by name
        min_inside: turned views of which less than this share lies in the image are left out
        licence: under which terms the images may be used
    """

    name = "panohead"
    settings: dict[str, Any] = field(init=False)
    _detector = FaceDetector()

    root: str
    size: int = 512
    convention: Literal["eg3d", "panohead"] = "panohead"
    val_share: float = 0.03
    test_share: float = 0.03
    conditions: RendererChoice = "synthetic"
    min_views: int = 9
    max_views: int = 64
    min_inside: float = 0.6
    licence: str = "PanoHead-generated"

    def __post_init__(self) -> None:
        if self.size < 16 or self.min_views < 2 or self.max_views < self.min_views:
            raise InputError("give --size of 16 or more, and --max_views not below --min_views, 2 or more")
        check_renderer(self.conditions)
        shares = Shares(self.val_share, self.test_share)
        shares.check()
        self._heads = self._group(find_images(Path(self.root)), shares)
        if (most := max(len(head.images) for head in self._heads)) < self.min_views:
            raise InputError(
                f"--root {self.root}: no identity has --min_views {self.min_views} images, the most is"
                f" {most}: put each one's into a folder of its own; single photos are for python -m"
                " shards.build wild"
            )
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        own["conditions"] = renderer_record(self.conditions)
        self.settings = own | {"found": sha256(repr(self._heads).encode()).hexdigest()[:16]}

    def units(self) -> Sequence[Head]:
        """The identities."""
        return self._heads

    def frames(self, unit: Head) -> int:  # noqa: ARG002
        """One."""
        return 1

    def capture(self, unit: Head) -> list[Sample | Skip]:
        """The frame of an identity; images that cannot be used are named."""
        pictures, skips = self._open(unit)
        try:
            if len(pictures) < self.min_views:
                raise NoHeadError(f"fewer than {self.min_views} usable images")
            head = self._head(pictures) if self.convention == "panohead" else None
            crops = [self._cut(picture, head) for picture in pictures]
            kept = [crop for crop in crops if crop is not None]
            if len(kept) < self.min_views:
                raise NoHeadError(f"fewer than {self.min_views} images hold most of the turned view")
        except NoHeadError as error:
            return [*skips, Skip(unit.identity, str(error))]
        meta = SampleMeta(
            self.name, unit.identity, unit.split, "still", "0", "eg3d", self.licence, attributes={}
        )
        cameras = np.stack([crop.label for crop in kept])
        masks = [crop.mask for crop in kept if crop.mask is not None]
        sample = Sample(
            meta=meta,
            views=np.stack([crop.image for crop in kept]),
            conditions=self.condition_images(meta.key, cameras, self.size),
            cameras=cameras,
            masks=np.stack(masks) if len(masks) == len(kept) else None,
        )
        return [sample, *skips]

    def _group(self, images: dict[str, tuple[float, ...] | None], shares: Shares) -> list[Head]:
        nested = any("/" in name for name in images)
        groups: dict[str, list[tuple[str, tuple[float, ...] | None]]] = {}
        for name in sorted(images):
            groups.setdefault(_identity(name, nested), []).append((name, images[name]))
        heads = []
        for identity, members in sorted(groups.items()):
            places = np.linspace(0, len(members) - 1, min(len(members), self.max_views)).round().astype(int)
            chosen = tuple(members[place] for place in places)
            heads.append(Head(identity, split_by_hash(f"panohead {identity}", shares), chosen))
        return heads

    def _open(self, unit: Head) -> tuple[list[_Picture], list[Skip]]:
        pictures: list[_Picture] = []
        skips: list[Skip] = []
        root = Path(self.root)
        for name, values in unit.images:
            path = root / name
            try:
                label = check_labels([_own_label(path) if values is None else values], name)[0]
                image = open_photo(path)
                if image.width != image.height:
                    raise InputError(f"{name}: {image.width}x{image.height} is not square")
                pictures.append(_Picture(np.asarray(image), _mask(root, path, image.width), label))
            except InputError as error:
                skips.append(Skip(name, str(error).removeprefix(f"{name}: "), 0))
        return pictures, skips

    def _head(self, pictures: Sequence[_Picture]) -> HeadFrame:
        """The head's frame among the labels' cameras. Raises NoHeadError."""
        projections, landmarks = {}, {}
        for index, picture in enumerate(pictures):
            face = choose(self._detector.faces(Image.fromarray(picture.image)))
            if face is not None:
                pose = split_label(picture.label.astype(np.float64))[0]
                projections[f"{index:04d}"] = picture.intrinsics @ np.linalg.inv(pose)[:3]
                landmarks[f"{index:04d}"] = face.landmarks
        return locate_head(projections, landmarks)

    def _cut(self, picture: _Picture, head: HeadFrame | None) -> _Picture | None:
        """A picture at the frame's size, turned to look at the `head` if there is one; None for a view that
        then lies mostly outside."""
        image, mask, label = picture
        if head is None:
            side = (self.size, self.size)
            small = (
                None if mask is None else np.array(Image.fromarray(mask).resize(side, Image.Resampling.BOX))
            )
            return _Picture(
                np.array(Image.fromarray(image).resize(side, Image.Resampling.LANCZOS)), small, label
            )
        pose = split_label(label.astype(np.float64))[0]
        view = virtual_view(pose, picture.intrinsics, head)
        if view.inside(image.shape[1], image.shape[0]) < self.min_inside:
            return None
        turned = None if mask is None else view.cut(mask, self.size)
        return _Picture(view.cut(image, self.size), turned, view.camera)


def find_images(root: Path) -> dict[str, tuple[float, ...] | None]:
    """The labelled images below `root` by relative path, with their label, or None where it lies in a file
    beside the image. Raises InputError where there are none, or a label file is damaged or points
    elsewhere."""
    if not root.is_dir():
        raise InputError(f"--root {root}: there is no such folder")
    for name in LABEL_FILES:
        if (root / name).is_file():
            return _listed(root, root / name)
    images = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES]
    labelled = [path for path in images if _label_file(path) is not None]
    if not labelled:
        raise InputError(f"--root {root}: neither dataset.json nor an image with its .npy or .json beside it")
    return {path.relative_to(root).as_posix(): None for path in labelled}


def _listed(root: Path, path: Path) -> dict[str, tuple[float, ...] | None]:
    if path.stat().st_size > MAX_LABEL_BYTES:
        raise InputError(f"{path}: larger than a list of labels can be")
    try:
        entries = json.loads(path.read_bytes())["labels"]
        found: dict[str, tuple[float, ...] | None] = {
            str(name): tuple(float(value) for value in values) for name, values in entries
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f'{path}: not {{"labels": [["image.png", [25 numbers]], …]}} ({error!r})') from error
    _check_names(root, path, found)
    return found


def _check_names(root: Path, path: Path, names: Collection[str]) -> None:
    """Raise InputError where the images of a list lie elsewhere, are not there, or cannot be grouped."""
    for name in names:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name:
            raise InputError(f"{path}: {name!r} points out of the folder")
    if names and all(SINGLE_IMAGE.fullmatch(name) for name in names):
        raise InputError(
            f"{path}: a data set of single images as EG3D's dataset_tool packs them: nothing tells whom they"
            " show; name folders by identity, or read photos by python -m shards.build wild"
        )
    if not any((root / name).is_file() for name in names):
        raise InputError(f"{path}: none of its images is there")


def _label_file(image: Path) -> Path | None:
    return next((p for p in (image.with_suffix(s) for s in (".npy", ".json")) if p.is_file()), None)


def _own_label(image: Path) -> tuple[float, ...]:
    path = _label_file(image)
    if path is None:
        raise InputError(f"{image.name}: it has no label")
    if path.stat().st_size > MAX_LABEL_FILE_BYTES:
        raise InputError(f"{path.name}: larger than a label can be")
    try:
        data = path.read_bytes()
        values = parse_npy(data) if path.suffix == ".npy" else json.loads(data)
        if isinstance(values, dict):
            values = values.get("label", values.get("labels"))
        numbers = np.asarray(values, dtype=np.float64).ravel()
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path.name}: its label is not {LABEL_SIZE} numbers") from error
    return tuple(numbers.tolist())


def _mask(root: Path, image: Path, side: int) -> NDArray[np.uint8] | None:
    """The foreground mask of an image: a file of the same place in `masks/`, `<image>_mask.png`, or the alpha
    channel."""
    relative = image.relative_to(root)
    candidates = [root / folder / relative.with_suffix(".png") for folder in MASK_FOLDERS]
    candidates.append(image.with_name(f"{image.stem}_mask.png"))
    for path in candidates:
        if path.is_file():
            return np.array(open_photo(path).convert("L").resize((side, side), Image.Resampling.BOX))
    with Image.open(image) as opened:
        return np.array(opened.getchannel("A")) if opened.mode in ("RGBA", "LA") else None


def _identity(name: str, nested: bool) -> str:
    path = PurePosixPath(name)
    if nested:
        return key_name(path.parent.as_posix())
    match = VIEW_NUMBER.fullmatch(path.stem)
    return key_name(match[1] if match else path.stem)
