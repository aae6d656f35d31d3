"""A folder of predictions: what any system made of some subjects, and what each image should show.

```
DIR/manifest.json
DIR/<subject>/<view>.png
```

The manifest is `{"format": 1, "system": …, "protocol": …, "views": [{"subject", "view", "reference",
"camera", "truth", "condition", "mask", "reference_camera"}, …]}`. `camera` is an EG3D label, and so is
`reference_camera`, of the reference; `reference` (the portrait), `truth`, `condition` (somebody else at the
same camera) and `mask` (the truth's foreground) are files relative to DIR. All but the names may be left out;
without a truth, ID is against the reference and POSE against the condition.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.files import write_json
from core.lists import shortened
from core.tensors import read_json
from portraits.cameras import LABEL_SIZE, check_labels

MANIFEST = "manifest.json"
FORMAT = 1
Protocol = Literal["reconstruction", "novel_view", "wild"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
FILES = ("reference", "truth", "condition", "mask")


@dataclass(frozen=True)
class View:
    """One predicted image, `<subject>/<view>.png`, and what there is to hold it against: `camera` (25), that
    of the reference, and files relative to the folder."""

    subject: str
    view: str
    reference: str | None = None
    camera: list[float] | None = None
    truth: str | None = None
    condition: str | None = None
    mask: str | None = None
    reference_camera: list[float] | None = None

    @property
    def image(self) -> str:
        """The predicted image's file, relative to the folder."""
        return f"{self.subject}/{self.view}.png"

    @property
    def name(self) -> str:
        """The view's unique name."""
        return f"{self.subject}/{self.view}"

    @classmethod
    def parse(cls, values: Any, where: str) -> Self:
        """A view from JSON. Raises InputError on what is none, `where` naming it."""
        try:
            view = cls(**values)
        except TypeError as error:
            raise InputError(f"{where}: not a view of a manifest ({error})") from None
        names = {"subject": view.subject, "view": view.view}
        for name, value in names.items():
            if not isinstance(value, str) or Path(value).name != value or value in ("", ".", ".."):
                raise InputError(f"{where}: {name} {value!r} is no plain file name")
        for camera in (view.camera, view.reference_camera):
            if camera is None:
                continue
            if not isinstance(camera, list) or len(camera) != LABEL_SIZE:
                raise InputError(f"{where}: a camera of {view.name} is not {LABEL_SIZE} numbers")
            check_labels(np.array([camera], dtype=object), f"{where}: {view.name}")
        return view


@dataclass(frozen=True)
class Predictions:
    """What a `system` made, in `folder`. `settings` says how, as far as the system tells."""

    folder: Path
    system: str
    protocol: Protocol
    views: tuple[View, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def cameras(self) -> NDArray[np.float32] | None:
        """The cameras (N, 25) of all views, None unless all have one."""
        labels = [view.camera for view in self.views]
        return None if None in labels else np.array(labels, dtype=np.float32)

    def save(self) -> None:
        """Write the manifest."""
        views = [{k: v for k, v in asdict(view).items() if v is not None} for view in self.views]
        values = {"format": FORMAT, "system": self.system, "protocol": self.protocol, "views": views}
        write_json(self.folder / MANIFEST, values | {"settings": self.settings})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The predictions in a folder, all of their files there.

        Raises InputError where the manifest is missing or damaged, names a view twice, or files are missing:
        how many, and which.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(
                f"{folder}: no {MANIFEST} in it; portraits/predictions.py says what it holds, and `python -m"
                " lightning_modules.evaluation.unpack` writes it for what other systems make"
            )
        values = read_json(path)
        if values.get("format") != FORMAT:
            raise InputError(f"{path}: format {values.get('format')!r}; this code reads {FORMAT}")
        if values.get("protocol") not in PROTOCOLS:
            raise InputError(f"{path}: protocol {values.get('protocol')!r} is none of {', '.join(PROTOCOLS)}")
        entries = values.get("views")
        if not isinstance(entries, list) or not entries:
            raise InputError(f"{path}: it lists no views")
        views = tuple(View.parse(entry, f"{path}: view {number}") for number, entry in enumerate(entries))
        check_unique(views, path)
        loaded = cls(
            folder,
            str(values.get("system", folder.name)),
            values["protocol"],
            views,
            values.get("settings", {}),
        )
        loaded.check_files()
        return loaded

    def check_files(self) -> None:
        """Raise InputError unless all files that the views name are there and every image is listed."""
        wanted = {view.image: "predicted images" for view in self.views}
        for kind in FILES:
            named = (getattr(view, kind) for view in self.views)
            wanted |= {name: f"{kind} files" for name in named if name is not None}
        missing = [name for name in wanted if not (self.folder / name).is_file()]
        if missing:
            kinds = sorted({wanted[name] for name in missing})
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(wanted)} files are missing ({', '.join(kinds)}):"
                f" {shortened(missing)}; partial results are not scored"
            )
        known = set(wanted)
        there = (path.relative_to(self.folder).as_posix() for path in self.folder.glob("*/*.png"))
        unmatched = sorted(name for name in there if name not in known)
        if unmatched:
            raise InputError(
                f"{self.folder}: {len(unmatched)} images are not in {MANIFEST}:"
                f" {shortened(unmatched)}; list or remove them"
            )

    def subjects(self) -> dict[str, list[View]]:
        """The views by subject, in the manifest's order."""
        found: dict[str, list[View]] = {}
        for view in self.views:
            found.setdefault(view.subject, []).append(view)
        return found


def check_unique(views: Iterable[View], where: Path) -> None:
    """Raise InputError where a view is listed twice."""
    seen: set[str] = set()
    for view in views:
        if view.name in seen:
            raise InputError(f"{where}: {view.name} is listed twice")
        seen.add(view.name)
