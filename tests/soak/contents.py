"""Contents of a command's output files, without what may differ between runs."""

import csv
import hashlib
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from core.errors import InputError
from core.files import PARTIAL
from lightning_modules.evaluation.report import DOTS
from lightning_modules.evaluation.unpack import frames_of

Contents = dict[str, Any]

# These depend on the machine and on resuming, not on the run.
MEASURED = ("seconds", "peak_bytes", "peak GiB", "images_per_second", "data_wait")
PLOTTED = f"{DOTS}.png"  # a figure of which one plot shows seconds
OWN_SETTINGS = ("ckpt_path",)
RESTORED = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")
END_OF_TAR = 1024  # bytes of zeros
SHOWN = 4  # values of a file that differ
AVERAGE = "WeightAverage"
CHECKPOINT, LOG = "last.ckpt", "metrics.csv"


class UnreadableError(ValueError):
    """A half-written file."""


def read_folder(folder: Path) -> Contents:
    """The content of every file below a folder by its path, without temporary files and folders.

    The versions of a run are merged, since one resumes another. Raises UnreadableError for half-written
    files.
    """
    found: Contents = {}
    for path in sorted(folder.rglob("*"), key=_version):
        place = path.relative_to(folder)
        if path.is_file() and not any(_is_temporary(part) for part in place.parts):
            name = "/".join(part for part in place.parts if not part.startswith("version_"))
            content = read_file(path)
            if path.name == LOG and name in found:
                content = found[name] | content
            if path.suffix != ".ckpt" or path.name == CHECKPOINT:
                found[name] = content
    return found


def unreadable_files(folder: Path) -> list[str]:
    """The half-written files below a folder that have their final names."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(_is_temporary(part) for part in path.relative_to(folder).parts):
            try:
                check_whole(path)
            except UnreadableError as error:
                found.append(str(error))
    return found


def check_whole(path: Path) -> None:
    """Read a file to its end. Raises UnreadableError."""
    try:
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                members = tar.getmembers()
            if not members or path.read_bytes()[-END_OF_TAR:] != bytes(END_OF_TAR):
                raise UnreadableError(f"{path}: cut off")
        elif path.suffix == ".mp4":
            if len(frames_of(path)) == 0:
                raise UnreadableError(f"{path}: no frames")
        else:
            read_file(path)
    except (OSError, InputError, SafetensorError, tarfile.TarError) as error:
        raise UnreadableError(f"{path}: {type(error).__name__}: {error}") from error


def _version(path: Path) -> tuple[int, str]:
    numbers = [int(part[8:]) for part in path.parts if part.startswith("version_") and part[8:].isdigit()]
    return (numbers[0] if numbers else -1, str(path))


def _is_temporary(name: str) -> bool:
    return name.endswith(PARTIAL) or name.endswith(".lock")


def read_file(path: Path) -> Any:
    """The content of a file without measured values. Raises UnreadableError."""
    try:
        if path.name == LOG:
            return read_log(path)
        if path.suffix == ".ckpt":
            return checkpoint_digest(path)
        if path.suffix == ".csv":
            return without_columns(path, ",")
        if path.suffix == ".md":
            return without_columns(path, " | ")
        if path.suffix == ".json":
            return without_measured(json.loads(path.read_text(encoding="utf-8")))
        if path.suffix == ".yaml":
            return read_settings(path)
        if path.name == PLOTTED:
            with Image.open(path) as image:
                return image.size
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (ValueError, RuntimeError, EOFError, KeyError, UnpicklingError, yaml.YAMLError) as error:
        raise UnreadableError(f"{path}: {type(error).__name__}: {error}") from error


def read_log(path: Path) -> dict[tuple[str, str], str]:
    """The logged values by step and name."""
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise UnreadableError(f"{path}: the last line is cut off")
    rows = list(csv.DictReader(text.splitlines()))
    if any(None in row or None in row.values() for row in rows):
        raise UnreadableError(f"{path}: a row has another number of values than the header")
    return {
        (row["step"], name): value
        for row in rows
        for name, value in row.items()
        if value and name not in ("step", "epoch") and not _is_measured(name)
    }


def checkpoint_digest(path: Path) -> dict[str, str]:
    """Digests of weights, their average and the optimiser.

    Counts of validations are left out: a repeated one is counted in the checkpoint of its step, others in the
    next checkpoint. So is the epoch: a run that is resumed from its last step ends the epoch before its
    validation saves the checkpoint again. No batch depends on it, as the loader counts on its own."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    kept = {name: checkpoint[name] for name in RESTORED}
    kept |= {name: state for name, state in checkpoint["callbacks"].items() if AVERAGE in name}
    return {name: _digest(value) for name, value in kept.items()}


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for leaf in _leaves(value):
        digest.update(
            leaf.contiguous().numpy().tobytes() if isinstance(leaf, torch.Tensor) else repr(leaf).encode()
        )
    return digest.hexdigest()


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for name, each in value.items() for leaf in (name, *_leaves(each))]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


def read_settings(path: Path) -> Any:
    """YAML settings without those that differ when resuming."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise UnreadableError(f"{path}: no settings")
    return {name: value for name, value in values.items() if name not in OWN_SETTINGS}


def without_measured(value: Any) -> Any:
    """JSON values without the measured ones."""
    if isinstance(value, dict):
        return {name: without_measured(each) for name, each in value.items() if not _is_measured(name)}
    if isinstance(value, list):
        return [without_measured(each) for each in value]
    return value


def without_columns(path: Path, separator: str) -> list[list[str]]:
    """The rows of a table without its measured columns, and without rows of measured values; the header is
    the first of the longest rows."""
    rows = [line.split(separator) for line in path.read_text(encoding="utf-8").splitlines()]
    header = max(rows, key=len, default=[])
    dropped = {number for number, name in enumerate(header) if _is_measured(name)}
    return [
        [cell for number, cell in enumerate(row) if number not in dropped] if len(row) == len(header) else row
        for row in rows
        if row is header or not any(_is_measured(cell) for cell in row)
    ]


def _is_measured(name: str) -> bool:
    return any(part in name for part in MEASURED)


def differences(found: Contents, expected: Contents) -> list[str]:
    """The differences, one line per file."""
    lines = [f"{name}: missing" for name in expected.keys() - found.keys()]
    lines += [f"{name}: not in the undisturbed run" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        one, other = found[name], expected[name]
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            keys = [key for key in other.keys() | one.keys() if one.get(key) != other.get(key)]
            shown = "; ".join(
                f"{key}: {one.get(key)} for {other.get(key)}" for key in sorted(keys, key=str)[:SHOWN]
            )
            lines.append(f"{name}: {len(keys)} values differ: {shown}")
        else:
            lines.append(f"{name}: other bytes")
    return sorted(lines)
