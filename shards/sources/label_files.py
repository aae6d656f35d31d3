"""Discovery of labelled images in a folder: EG3D's lists of labels, labels next to images, grouping by
identity."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from core.errors import InputError
from core.lists import spread
from portraits.alignment.photos import SUFFIXES
from portraits.camera_files import LABEL_SUFFIXES, read_label_file
from shards.sources.names import key_name

LABEL_LISTS = ("dataset.json", "label.json")
MAX_LIST_BYTES = 1 << 30
SINGLE_IMAGE = re.compile(r"\d{5}/img\d{8}\.\w+")  # names that EG3D's dataset_tool gives
VIEW_NUMBER = re.compile(r"(.+?)[_-]([^_-]+)")

Label = tuple[float, ...]


def find_labelled_images(root: Path) -> dict[str, Label | None]:
    """The labelled images below `root`: relative path → label, or None if the label is in a separate file.

    Raises InputError if there are none, or where a list of labels is damaged or names files outside
    `root`.
    """
    if not root.is_dir():
        raise InputError(f"--root {root}: there is no such folder")
    for name in LABEL_LISTS:
        if (root / name).is_file():
            return _read_list(root, root / name)
    labelled = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and _label_file(path) is not None
    ]
    if not labelled:
        raise InputError(f"--root {root}: no dataset.json, and no image with a .npy or .json of its name")
    return {path.relative_to(root).as_posix(): None for path in labelled}


def group_by_identity(
    images: Mapping[str, Label | None], max_views: int
) -> dict[str, tuple[tuple[str, Label | None], ...]]:
    """Group images by identity, both sorted by name; at most `max_views` evenly spaced images of an
    identity."""
    nested = any("/" in name for name in images)
    groups: dict[str, list[tuple[str, Label | None]]] = {}
    for name in sorted(images):
        groups.setdefault(_identity(name, nested), []).append((name, images[name]))
    found = {}
    for identity, group in sorted(groups.items()):
        found[identity] = tuple(group[place] for place in spread(len(group), max_views, ends=True))
    return found


def read_own_label(image: Path) -> Label:
    """The label in the file next to an image. Raises InputError."""
    path = _label_file(image)
    if path is None:
        raise InputError(f"{image.name}: it has no label")
    labels = read_label_file(path)
    if len(labels) != 1:
        raise InputError(f"{path.name}: it holds {len(labels)} labels, not one")
    return labels[0]


def _read_list(root: Path, path: Path) -> dict[str, Label | None]:
    if path.stat().st_size > MAX_LIST_BYTES:
        raise InputError(f"{path}: larger than a list of labels can be")
    try:
        entries = json.loads(path.read_bytes())["labels"]
        found: dict[str, Label | None] = {
            str(name): tuple(float(value) for value in values) for name, values in entries
        }
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f'{path}: not {{"labels": [["image.png", [25 numbers]], …]}} ({error!r})') from error
    _check_names(root, path, found)
    return found


def _check_names(root: Path, path: Path, names: Collection[str]) -> None:
    """Raise InputError if the images of a list are outside `root`, missing, or of unknown identity."""
    for name in names:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name:
            raise InputError(f"{path}: {name!r} is outside the folder")
    if names and all(SINGLE_IMAGE.fullmatch(name) for name in names):
        raise InputError(
            f"{path}: a data set of single images as EG3D's dataset_tool packs them, without their"
            " identities: name folders by identity, or read photos by `python -m shards.build wild`"
        )
    if not any((root / name).is_file() for name in names):
        raise InputError(f"{path}: none of its images exists")


def _label_file(image: Path) -> Path | None:
    return next((p for p in (image.with_suffix(s) for s in LABEL_SUFFIXES) if p.is_file()), None)


def _identity(name: str, nested: bool) -> str:
    path = PurePosixPath(name)
    if nested:
        return key_name(path.parent.as_posix())
    match = VIEW_NUMBER.fullmatch(path.stem)
    return key_name(match[1] if match else path.stem)
