"""Safe reading of PyTorch files that hold more than tensors: none of the classes in them is imported or
executed."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.lists import shortened
from core.tensors import DAMAGE, read_tensors

# How the names of classes of mappings end: dnnlib's EasyDict, Lightning's AttributeDict, defaultdict.
MAPPING = "dict"


class StandIn:
    """Placeholder for objects of a class that is not imported; their content is discarded."""

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


class StandInMapping:
    """Placeholder for mappings of a class that is not imported; they become an `OrderedDict`."""

    def __new__(cls, *_arguments: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def read_archive(path: Path) -> dict[str, Any]:
    """Read the mapping in a file of `torch.save`, with memory-mapped tensors.

    Trainers store settings and callbacks besides the weights. Objects of their classes become `StandIn`s,
    mappings `OrderedDict`s; no class is imported. Raises InputError if the file is missing, damaged, or not
    such a mapping.
    """
    with torch.serialization.safe_globals(_stand_ins(path)):
        return read_tensors(path)


def _stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """A placeholder for each class in a file that PyTorch's restricted unpickler does not allow."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return []
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (pickle.UnpicklingError, *DAMAGE):
        return []  # `read_tensors` reads the file again and reports the fault
    return [(StandInMapping if name.lower().endswith(MAPPING) else StandIn, name) for name in names]


def state_dict(contents: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors by name in a file's contents, as `read_archive` returns them: at the top, or under the key
    `state_dict`. If all names begin with `module.`, that is removed. Raises InputError, naming `where`, if
    there are no tensors, or anything but tensors."""
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
