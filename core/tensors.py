"""Tensors and JSON from files, read safely and compared strictly."""

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.downloads import check_downloaded
from core.errors import InputError
from core.lists import shortened

# What reading a malformed file of torch.save raises.
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
)
# What PyTorch's restricted reader refuses, in its error; the rest of the error advises to disable the reader.
REFUSED = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class|Trying to (?:call|load)) ([\w.]+)")


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put tensors in the place of a module's own; `where` names their origin in the error.

    Raises InputError listing missing, unexpected and misshapen names, and those with NaN or infinite values.
    """
    compare({name: tuple(x.shape) for name, x in module.state_dict().items()}, tensors, where)
    check_finite(tensors, where)
    module.load_state_dict(dict(tensors), assign=True)


def compare(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor], where: str) -> None:
    """InputError listing what is missing, unexpected and misshapen among given tensors."""
    faults = shape_faults(wanted, {name: tuple(x.shape) for name, x in given.items()})
    if faults:
        raise InputError(f"{where}: {faults}")


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError, naming `where`, listing tensors with NaN or infinite values."""
    wrong = [name for name, x in tensors.items() if x.is_floating_point() and not _finite(x)]
    if wrong:
        raise InputError(f"{where}: NaN or infinite values in {shortened(wrong)}")


def _finite(x: Tensor) -> bool:
    """Whether all values are finite: where the sum is, they are, and it takes no memory."""
    return bool(x.sum(dtype=torch.float64).isfinite()) or bool(x.isfinite().all())


def shape_faults(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, unexpected and misshapen among given shapes by name, in words; empty if nothing is."""
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
    """A JSON object, or an InputError that names the file."""
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
    """The tensors of a safetensors file or of a pickled state dict, mapped into memory, never executing code.

    Raises InputError on a missing, truncated or malformed file, and on a pickle with anything but tensors in
    it.
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


def read_pickle(path: Path) -> Any:
    """The content of a file that `torch.save` has written, on the CPU: tensors, mapped into memory where the
    format allows, and plain containers.

    Raises InputError on a missing or damaged file, and on a pickle with anything else in it; none of it is
    executed.
    """
    check_downloaded(path)
    try:
        mapped = zipfile.is_zipfile(path)  # what torch.save has written since PyTorch 1.6
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
