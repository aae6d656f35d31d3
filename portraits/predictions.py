"""Prediction folders: a system's images, and the files that each is compared with.

```
DIR/manifest.json
DIR/<subject>/<view>.png
```

The manifest is `{"format": 1, "system": …, "protocol": …, "views": [{"subject": …, "view": …, …}, …]}` with
one entry for each image; `View` lists its fields. File names are relative to DIR and must lie inside it.
Without a truth, ID is measured against the reference and POSE against the condition.
"""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.files import write_json
from core.lists import shortened
from core.schema import STRICT, check_values, read_schema, storable
from portraits.cameras import LABEL_SIZE, check_labels

MANIFEST = "manifest.json"
FORMAT = 1
LONGEST_NAME = 200  # bytes; most file systems allow 255, suffixes included
Protocol = Literal["reconstruction", "novel_view", "wild"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
FILES = ("reference", "truth", "condition", "mask")


@dataclass(frozen=True)
class View:
    """One predicted image, `<subject>/<view>.png`, and the files that it is compared with.

    Args:
        subject: name of the subject and its folder
        view: name of the view, unique in the subject
        reference: file of the input portrait
        camera: EG3D label (25,) of the view
        truth: file of the ground-truth image
        condition: file of an image of another person at the same camera
        mask: file of the truth's foreground mask
        reference_camera: EG3D label (25,) of the reference

    Raises InputError on names that files cannot have, and on labels that are not cameras.
    """

    __pydantic_config__: ClassVar = STRICT

    subject: str
    view: str
    reference: str | None = None
    camera: list[float] | None = None
    truth: str | None = None
    condition: str | None = None
    mask: str | None = None
    reference_camera: list[float] | None = None

    def __post_init__(self) -> None:
        for name, value in (("subject", self.subject), ("view", self.view)):
            if not is_plain_name(value):
                raise InputError(f"{name} {value[:80]!r} cannot be a file's name")
        for camera in (self.camera, self.reference_camera):
            if camera is None:
                continue
            if len(camera) != LABEL_SIZE:
                raise InputError(f"a camera of {self.name} has {len(camera)} numbers, not {LABEL_SIZE}")
            check_labels(np.array([camera], dtype=object), self.name)

    @property
    def image(self) -> str:
        """File of the predicted image."""
        return f"{self.subject}/{self.view}.png"

    @property
    def name(self) -> str:
        """The view's unique name."""
        return f"{self.subject}/{self.view}"

    @property
    def files(self) -> dict[str, str]:
        """The view's existing files by kind, the predicted image first."""
        named = {kind: getattr(self, kind) for kind in FILES}
        return {"image": self.image} | {kind: name for kind, name in named.items() if name is not None}

    @classmethod
    def parse(cls, values: Any, where: str) -> Self:
        """Parse a view from JSON values; `where` names them in errors. Raises InputError."""
        return check_values(cls, values, where)


@dataclass(frozen=True)
class _Manifest:
    """The content of a manifest."""

    __pydantic_config__: ClassVar = STRICT

    format: int
    protocol: Protocol
    views: list[View]
    system: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise InputError(f"format {self.format} is not supported; this version reads format {FORMAT}")
        if not self.views:
            raise InputError("it lists no views")


@dataclass(frozen=True)
class Predictions:
    """The predictions of a `system` in `folder`; `settings` are those that the system recorded."""

    folder: Path
    system: str
    protocol: Protocol
    views: tuple[View, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def cameras(self) -> NDArray[np.float32] | None:
        """The cameras (N, 25) of all views; None unless every view has one."""
        labels = [view.camera for view in self.views]
        return None if None in labels else np.array(labels, dtype=np.float32)

    def save(self) -> None:
        """Write the manifest."""
        views = [{k: v for k, v in asdict(view).items() if v is not None} for view in self.views]
        values = {"format": FORMAT, "system": self.system, "protocol": self.protocol, "views": views}
        write_json(self.folder / MANIFEST, values | {"settings": storable(self.settings)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the predictions in a folder and check that all their files exist.

        Raises InputError if the manifest is missing or damaged, lists a view twice or names a file outside
        the folder; if files are missing; and if the folder has images that are not listed.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(
                f"{folder}: no {MANIFEST} in it; docs/evaluation.md describes the file, and `diffportrait3d"
                " unpack` writes it for the results of other systems"
            )
        manifest = read_schema(_Manifest, path)
        check_unique(manifest.views, path)
        system = folder.name if manifest.system is None else manifest.system
        loaded = cls(folder, system, manifest.protocol, tuple(manifest.views), manifest.settings)
        loaded.check_files()
        return loaded

    def check_files(self) -> None:
        """Raise InputError unless all files of the views exist inside the folder, and all images are
        listed."""
        kinds = {name: kind for view in self.views for kind, name in view.files.items()}
        outside = [name for name in kinds if not is_inside(self.folder, name)]
        if outside:
            raise InputError(
                f"{self.folder}: {len(outside)} of {len(kinds)} files are outside the folder:"
                f" {shortened([name[:80] for name in outside])}; copy them into it"
            )
        missing = [name for name in kinds if not (self.folder / name).is_file()]
        if missing:
            missing_kinds = sorted({kinds[name] for name in missing})
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(kinds)} files are missing"
                f" ({', '.join(missing_kinds)}): {shortened(missing)}; partial results are not scored"
            )
        images = (path for path in self.folder.glob("*/*.png") if not path.name.startswith("."))
        unlisted = sorted({path.relative_to(self.folder).as_posix() for path in images} - kinds.keys())
        if unlisted:
            raise InputError(
                f"{self.folder}: {len(unlisted)} images are not in {MANIFEST}: {shortened(unlisted)}; list or"
                " remove them"
            )

    def subjects(self) -> dict[str, list[View]]:
        """The views by subject, in the manifest's order."""
        grouped: dict[str, list[View]] = {}
        for view in self.views:
            grouped.setdefault(view.subject, []).append(view)
        return grouped


def is_plain_name(name: str) -> bool:
    """Whether this is a valid file name: printable, without slashes, at most `LONGEST_NAME` bytes."""
    return (
        name.isprintable()
        and name not in ("", ".", "..")
        and not {"/", "\\"} & set(name)
        and len(name.encode()) <= LONGEST_NAME
    )


def is_inside(folder: Path, name: str) -> bool:
    """Whether `name`, relative to a folder, is inside it after resolving `..` and links."""
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL, or a loop of links
        return False
    return path.is_relative_to(folder.resolve()) and all(len(os.fsencode(part)) < 256 for part in path.parts)


def check_unique(views: Iterable[View], where: Path) -> None:
    """Raise InputError if a view is listed twice."""
    seen: set[str] = set()
    for view in views:
        if view.name in seen:
            raise InputError(f"{where}: {view.name} is listed twice")
        seen.add(view.name)
