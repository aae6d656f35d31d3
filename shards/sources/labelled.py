"""`python -m shards.build labelled`: a folder of images with EG3D camera labels → frames.

Such folders are written by PanoHead, by EG3D, and by EG3D's preprocessing of photos. The labels are in
`dataset.json` or `label.json` (EG3D's format, which PanoHead writes with strings instead of numbers), or in
`<image>.npy` or `<image>.json` next to each image. The images of one identity are one frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from core.workers import ONLY_WORKER, Worker
from generators.registry import BAKED, RendererChoice, check_renderer, renderer_record
from portraits.alignment.detection import FaceDetector, choose
from portraits.alignment.head import HeadFrame, NoHeadError, locate_head
from portraits.alignment.photos import open_photo
from portraits.alignment.virtual import virtual_view
from portraits.camera_files import parse_label
from portraits.cameras import repair_labels, split_label
from portraits.pixels import Images, check_side
from shards.conditions import CONDITION_FRAMES, Portrait, RenderedConditions, in_units
from shards.schema import SampleMeta
from shards.skips import Skip
from shards.sources.label_files import Label, find_labelled_images, group_by_identity, read_own_label
from shards.sources.splits import Shares, split_by_hash

MASK_FOLDERS = ("masks", "mask")


@dataclass(frozen=True)
class Head:
    """The images of one identity, as pairs of a relative path and a label.

    The label is None if it is in a file next to the image."""

    identity: str
    split: str
    images: tuple[tuple[str, Label | None], ...]


class _View(NamedTuple):
    """A square image (S, S, 3), its mask (S, S) if it has one, and its label (25,)."""

    image: Images
    mask: NDArray[np.uint8] | None
    label: NDArray[np.float32]

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        """The intrinsics (3, 3) in pixels, with the centres of pixels at whole numbers."""
        side = len(self.image)
        to_pixels = np.array([[side, 0, -0.5], [0, side, -0.5], [0, 0, 1]])
        return to_pixels @ split_label(self.label.astype(np.float64))[1]


@dataclass(eq=False)
class LabelledFolder(RenderedConditions):
    """One frame for each identity in a folder of images with camera labels.

    An image's identity is the name of its subfolder or, if all images are in one folder, the part of its name
    before the last `_` or `-`.

    Args:
        root: the folder of images and labels
        size: image side in pixels
        convention: eg3d uses images and labels unchanged; panohead locates the head by landmarks and rotates
            the cameras, which look at the head's centre, to EG3D's pivot
        val_share: the share of identities held out for validation
        test_share: the share held out for testing
        conditions: the renderer of the condition images: baked, studio, synthetic, eg3d:FOLDER,
            panohead:FOLDER, or a GAN's options
        min_views: identities with fewer usable images are skipped
        max_views: at most this many images of an identity are used, evenly spaced by name
        min_inside: views rotated to EG3D's pivot are left out if less than this share of them is inside the
            image
        licence: the terms under which the images may be used
        condition_frames: identities in a row whose conditions show the same people, a person for each view;
            the more, the less a condition costs
    """

    name = "panohead"  # part of samples' keys in existing shards
    settings: dict[str, Any] = field(init=False)
    _detector = FaceDetector()

    root: str
    size: int = 512
    convention: Literal["eg3d", "panohead"] = "panohead"
    val_share: float = 0.03
    test_share: float = 0.03
    conditions: RendererChoice = BAKED
    min_views: int = 9
    max_views: int = 64
    min_inside: float = 0.6
    licence: str = "PanoHead-generated"
    condition_frames: int = CONDITION_FRAMES

    def __post_init__(self) -> None:
        check_side(self.size, "--size")
        if self.min_views < 2 or self.max_views < self.min_views:
            raise InputError(
                f"--min_views {self.min_views} --max_views {self.max_views}: give 2 <= min_views <= max_views"
            )
        if self.condition_frames < 1:
            raise InputError(f"--condition_frames {self.condition_frames}: give 1 or more")
        check_renderer(self.conditions)
        shares = Shares(self.val_share, self.test_share)
        shares.check()
        groups = group_by_identity(find_labelled_images(Path(self.root)), self.max_views)
        self._heads = [
            Head(identity, split_by_hash(f"panohead {identity}", shares), images)
            for identity, images in groups.items()
        ]
        if (most := max(len(unit.images) for unit in self._heads)) < self.min_views:
            raise InputError(
                f"--root {self.root}: no identity has --min_views {self.min_views} images, at most"
                f" {most}: put the images of each identity into a separate folder; single photos are read by"
                " `python -m shards.build wild`"
            )
        self._units = in_units(self._heads, lambda _: 1, lambda head: head.split, self.condition_frames)
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        own["conditions"] = renderer_record(self.conditions)
        self.settings = own | {"found": sha256(repr(self._heads).encode()).hexdigest()[:16]}

    def units(self) -> Sequence[tuple[Head, ...]]:
        """The identities, by name, in groups whose conditions show the same people."""
        return self._units

    def frames(self, unit: tuple[Head, ...]) -> int:
        """One per identity."""
        return len(unit)

    def portraits(self, unit: tuple[Head, ...], worker: Worker = ONLY_WORKER) -> list[Portrait | Skip]:  # noqa: ARG002
        """The frames of some identities, with skips for images that cannot be used."""
        return [result for head in unit for result in self._read(head)]

    def _read(self, head: Head) -> list[Portrait | Skip]:
        """The frame of an identity."""
        originals, skips = self.open_views(head)
        try:
            views = self._align(originals)
        except NoHeadError as error:
            return [*skips, Skip(head.identity, str(error))]
        meta = SampleMeta(
            self.name, head.identity, head.split, "still", "0", "eg3d", self.licence, attributes={}
        )
        images, masks, labels = zip(*views, strict=True)
        return [Portrait.of(meta, images, labels, masks), *skips]

    def open_views(self, unit: Head) -> tuple[list[_View], list[Skip]]:
        """Read the images of an identity, with skips for those that cannot be read."""
        views: list[_View] = []
        skips: list[Skip] = []
        root = Path(self.root)
        for name, listed in unit.images:
            path = root / name
            try:
                values = read_own_label(path) if listed is None else parse_label(list(listed), f"{name}: it")
                label = repair_labels([values], name)[0]
                image = open_photo(path)
                if image.width != image.height:
                    raise InputError(f"{name}: {image.width}x{image.height} is not square")
                views.append(_View(np.asarray(image), _read_mask(root, path, image.width), label))
            except InputError as error:
                skips.append(Skip(name, str(error).removeprefix(f"{name}: "), 0))
        return views, skips

    def _align(self, originals: Sequence[_View]) -> list[_View]:
        """The views at the output size. Raises NoHeadError if too few of them can be used."""
        if len(originals) < self.min_views:
            raise NoHeadError(f"fewer than {self.min_views} usable images")
        if self.convention == "eg3d":
            return [self._resize(view) for view in originals]
        head = self._locate_head(originals)
        turned = [self._turn(view, head) for view in originals]
        kept = [view for view in turned if view is not None]
        if len(kept) < self.min_views:
            raise NoHeadError(f"fewer than {self.min_views} images contain most of the rotated view")
        return kept

    def _locate_head(self, views: Sequence[_View]) -> HeadFrame:
        """The head's coordinate frame in the world of the labels. Raises NoHeadError."""
        projections, landmarks = {}, {}
        for index, view in enumerate(views):
            face = choose(self._detector.faces(Image.fromarray(view.image)))
            if face is not None:
                pose = split_label(view.label.astype(np.float64))[0]
                projections[f"{index:04d}"] = view.intrinsics @ np.linalg.inv(pose)[:3]
                landmarks[f"{index:04d}"] = face.landmarks
        return locate_head(projections, landmarks)

    def _resize(self, view: _View) -> _View:
        """A view at the output size."""
        side = (self.size, self.size)
        mask = (
            None
            if view.mask is None
            else np.array(Image.fromarray(view.mask).resize(side, Image.Resampling.BOX))
        )
        image = np.array(Image.fromarray(view.image).resize(side, Image.Resampling.LANCZOS))
        return _View(image, mask, view.label)

    def _turn(self, view: _View, head: HeadFrame) -> _View | None:
        """A view of the virtual camera that looks at EG3D's pivot of `head`; None if too little of it is
        inside the image."""
        pose = split_label(view.label.astype(np.float64))[0]
        virtual = virtual_view(pose, view.intrinsics, head)
        if virtual.inside(view.image.shape[1], view.image.shape[0]) < self.min_inside:
            return None
        mask = None if view.mask is None else virtual.cut(view.mask, self.size)
        return _View(virtual.cut(view.image, self.size), mask, virtual.camera)


def _read_mask(root: Path, image: Path, side: int) -> NDArray[np.uint8] | None:
    """The foreground mask (S, S) of an image: the file of the same relative path below `masks/`,
    `<image>_mask.png`, or the image's alpha channel."""
    relative = image.relative_to(root)
    candidates = [root / folder / relative.with_suffix(".png") for folder in MASK_FOLDERS]
    candidates.append(image.with_name(f"{image.stem}_mask.png"))
    for path in candidates:
        if path.is_file():
            return np.array(open_photo(path).convert("L").resize((side, side), Image.Resampling.BOX))
    with Image.open(image) as opened:
        return np.array(opened.getchannel("A")) if opened.mode in ("RGBA", "LA") else None
