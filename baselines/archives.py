"""PyTorch files that hold more than tensors, read without importing or executing anything that they name."""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.lists import shortened
from core.tensors import read_tensors

# Mappings, by the end of their class's name: dnnlib's EasyDict, Lightning's AttributeDict.
MAPPING = "Dict"


class StandIn:
    """Takes the place of an object whose class is not known here; nothing of it is kept."""

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def read_archive(path: Path) -> dict[str, Any]:
    """The mapping in a file of `torch.save`, tensors mapped into memory.

    Trainers store settings and callbacks beside the weights. Objects of their classes become `StandIn`, those
    of mappings plain dictionaries; classes are not imported. Raises InputError where the file is missing,
    damaged or no such mapping.
    """
    with torch.serialization.safe_globals(_stand_ins(path)):
        return read_tensors(path)


def _stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """A class here for each class that a file names and PyTorch's restricted reader does not know."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return []
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (pickle.UnpicklingError, EOFError, ValueError, RuntimeError, AttributeError):
        return []  # `read_tensors` reads the file again, and says what is wrong
    return [(dict if name.endswith(MAPPING) else type(name, (StandIn,), {}), name) for name in names]


def state_dict(contents: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors of what `read_archive` returns, which may stand under `state_dict` and may be wrapped for
    several GPUs (`module.`). Raises InputError, naming `where`, on anything but
    tensors, and where there are none."""
    tensors = contents.get("state_dict", contents)
    if not isinstance(tensors, dict) or not tensors:
        raise InputError(f"{where} holds no tensors by name")
    odd = sorted(str(name) for name, x in tensors.items() if not isinstance(x, Tensor))
    if odd:
        raise InputError(f"{where} is no state dict: it has no tensors at {shortened(odd)}")
    if all(str(name).startswith("module.") for name in tensors):
        tensors = {str(name).removeprefix("module."): x for name, x in tensors.items()}
    return {str(name): x for name, x in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
