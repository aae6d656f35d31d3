"""Safe reading of tensors and JSON from files, and strict comparison of names and shapes."""

import json
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.downloads import check_downloaded
from core.errors import InputError
from core.lists import shortened

# Raised by torch.load and zipfile for malformed files.
DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
# The class that PyTorch's restricted unpickler refused; the rest of its message advises to disable it.
REFUSED = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class|Trying to (?:call|load)) ([\w.]+)")


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a module without copying; `where` names their origin in errors.

    Raises InputError that lists missing, unexpected and misshapen tensors, and those with NaN or infinite
    values.
    """
    compare({name: tuple(x.shape) for name, x in module.state_dict().items()}, tensors, where)
    check_finite(tensors, where)
    module.load_state_dict(dict(tensors), assign=True)


def compare(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError that lists missing, unexpected and misshapen tensors."""
    faults = shape_faults(wanted, {name: tuple(x.shape) for name, x in given.items()})
    if faults:
        raise InputError(f"{where}: {faults}")


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError that lists tensors with NaN or infinite values; it begins with `where`."""
    wrong = [name for name, x in tensors.items() if x.is_floating_point() and not _finite(x)]
    if wrong:
        raise InputError(f"{where}: NaN or infinite values in {shortened(wrong)}")


def _finite(x: Tensor) -> bool:
    """Whether all values are finite. A finite sum, which takes no memory, implies that they are."""
    return bool(x.sum(dtype=torch.float64).isfinite()) or bool(x.isfinite().all())


def shape_faults(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """Describe missing, unexpected and misshapen entries of `given`; empty if there are none."""
    misshapen = [
        f"{name} {given[name]}, not {shape}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    found = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "misshapen": misshapen,
    }
    return "; ".join(f"{fault} {shortened(names)}" for fault, names in found.items() if names)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises InputError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        check_downloaded(path)
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object")
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The memory-mapped tensors of a safetensors file or of a pickled state dict. No code is executed.

    Raises InputError if the file is missing, truncated or malformed, or a pickle holds more than tensors.
    """
    if path.suffix != ".safetensors":
        loaded = read_pickle(path)
        if not isinstance(loaded, dict):
            raise InputError(f"{path} holds a {type(loaded).__name__}, not a state dict")
        return loaded
    check_downloaded(path)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or no safetensors file: {_first_line(error)}") from error


class Ignored:
    """In place of an object in a pickle whose class is neither imported nor needed."""

    def __init__(self, *_: Any) -> None:
        """Keep nothing of the arguments."""

    def __setstate__(self, state: Any) -> None:
        """Keep nothing of the state."""


def read_pickle(path: Path, ignored: Sequence[str] = ()) -> Any:
    """The content of a file written by `torch.save`, on the CPU: tensors, memory-mapped if the format allows,
    and plain containers. Objects of the classes named in `ignored` are read as `Ignored`.

    Raises InputError if the file is missing or damaged, or holds objects of other types; no code is executed.
    """
    check_downloaded(path)
    try:
        mapped = zipfile.is_zipfile(path)  # what torch.save has written since PyTorch 1.6
        with torch.serialization.safe_globals([(Ignored, name) for name in ignored]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        found = REFUSED.search(str(error))
        if found is None:
            raise InputError(f"{path} is truncated or no PyTorch file") from error
        raise InputError(f"{path} holds more than tensors ({found[1]}), and is not loaded") from error
    except DAMAGE as error:
        raise InputError(f"{path} is truncated or no PyTorch file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
