"""`python -m shards.build wild`: a folder of photos → test shards of portraits with estimated cameras."""

import os
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError
from core.workers import ONLY_WORKER, Worker
from generators.registry import STUDIO, RendererChoice, check_renderer, renderer_record
from portraits.alignment.camera import see_through
from portraits.alignment.crop import Square, cut
from portraits.alignment.detection import FaceDetector
from portraits.alignment.photos import SUFFIXES
from portraits.people import align_portrait, open_portrait
from portraits.pixels import Images, check_side
from shards.conditions import Portrait, RenderedConditions
from shards.schema import SampleMeta
from shards.skips import Skip
from shards.sources.names import key_name


class WildPortraits(RenderedConditions):
    """One test frame of one view for each photo below a folder, with a condition at its estimated camera."""

    name = "wild"
    inputs = "photos"
    _detector = FaceDetector()

    def __init__(
        self,
        root: str,
        size: int = 512,
        align: bool = True,
        conditions: RendererChoice = STUDIO,
        licence: str = "unknown",
    ) -> None:
        """
        Args:
            root: the folder of photos
            size: image side in pixels
            align: crop as EG3D does; otherwise use the central square
            conditions: the renderer of the condition images: studio, synthetic, baked, eg3d:FOLDER,
                panohead:FOLDER, or a GAN's options
            licence: the terms under which the photos may be used
        """
        check_side(size, "--size")
        check_renderer(conditions)
        self.root, self.size, self.align = Path(root), size, align
        self.conditions, self.licence = conditions, licence
        self._photos = _find_photos(self.root)
        self._stems = Counter(_stem(photo) for photo in self._photos)
        self.settings: dict[str, Any] = {
            "root": root,
            "size": size,
            "align": align,
            "conditions": renderer_record(conditions),
            "licence": licence,
            "found": sha256(os.fsencode("\n".join(self._photos))).hexdigest()[:16],
        }

    def units(self) -> Sequence[str]:
        """The paths of the photos, relative to the folder."""
        return self._photos

    def frames(self, unit: str) -> int:  # noqa: ARG002
        """One per photo."""
        return 1

    def portraits(self, unit: str, worker: Worker = ONLY_WORKER) -> list[Portrait | Skip]:  # noqa: ARG002
        """The frame of a photo, or a skip with the reason."""
        try:
            image, camera = self._portrait(self.root / unit)
        except InputError as error:
            return [Skip(unit, str(error).removeprefix(f"{self.root / unit}: "))]
        meta = SampleMeta(
            source=self.name,
            identity=identity_of(unit, self._stems[_stem(unit)] > 1),
            split="test",
            sequence="photo",
            instant="0",
            alignment="eg3d" if self.align else "none",
            licence=self.licence,
            attributes={"photo": unit},
        )
        return [Portrait.of(meta, [image], [camera])]

    def _portrait(self, path: Path) -> tuple[Images, NDArray[np.float32]]:
        """The portrait (S, S, 3) in a photo and its camera (25,). Raises InputError if there is none."""
        photo = open_portrait(path)
        found = align_portrait(photo, path, self.size, detector=self._detector)
        if self.align:
            return np.array(found.image), found.camera
        side = min(photo.size)
        middle = Square((photo.width - side) / 2, (photo.height - side) / 2, side)
        return np.array(cut(photo, middle, self.size)), see_through(found.camera, found.square, middle)


def _find_photos(root: Path) -> list[str]:
    """The relative paths of all images below a folder, including those that cannot be read and files without
    a suffix, which may be photos. Raises InputError if there are none."""
    if not root.is_dir():
        raise InputError(f"--root {root}: there is no such folder")
    Image.init()
    images = {end for end, kind in Image.EXTENSION.items() if Image.MIME.get(kind, "").startswith("image/")}
    suffixes = {"", *SUFFIXES, *images}
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise InputError(f"--root {root}: no photos in it ({', '.join(SUFFIXES)})")
    return [path.relative_to(root).as_posix() for path in found]


def _stem(photo: str) -> str:
    """A relative path without its suffix."""
    return PurePosixPath(photo).with_suffix("").as_posix()


def identity_of(photo: str, ambiguous: bool = False) -> str:
    """The identity of a photo, from its path without the suffix; `ambiguous` if another photo differs only in
    the suffix."""
    stem = _stem(photo)
    return key_name(stem, photo if ambiguous or key_name(stem) != stem else None)
