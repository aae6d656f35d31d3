"""Network pickles of StyleGAN2's descendants, read as data: no class in them is made, no code in them is run.

Their modules are "persistent": each carries its source, to be executed when it is unpickled. Here the names a
pickle may use are listed; those that stand for classes become records of what they were given, and the source
stays text. A pickle that uses any other name is refused.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError

# Classes become records, whatever they are: nothing of these packages is imported.
RECORDED = ("training.", "torch_utils.", "dnnlib.", "metrics.", "torch.nn.")
RECORDED_NAMES = {
    "torch.device",
    "torch.dtype",
    "torch.float16",
    "torch.float32",
    "torch.float64",
    "torch.memory_format",
    "torch.contiguous_format",
    "torch.channels_last",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
}
NUMBERS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}
# What a malformed pickle makes the reader raise.
DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)


class RefusedError(pickle.UnpicklingError):
    """A pickle uses a name that is not among those a network needs."""


class Record(dict):  # type: ignore[type-arg]
    """What a class was given: `arguments` and `state`, and items if it is a mapping."""

    origin = ""

    def __new__(cls, *arguments: Any, **_keywords: Any) -> "Record":
        record = super().__new__(cls)
        record.arguments, record.state = arguments, None
        return record

    def __init__(self, *_arguments: Any, **_keywords: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    __hash__ = object.__hash__  # type: ignore[assignment]
    arguments: tuple[Any, ...]
    state: Any


@dataclass(frozen=True)
class Module:
    """A module as it was pickled: its class's name and its attributes."""

    kind: str
    attributes: dict[str, Any]

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """Submodules by name."""
        for name, child in self._table("_modules").items():
            module = as_module(child)
            if module is not None:
                yield name, module

    def own_tensors(self) -> Iterator[tuple[str, "StoredTensor"]]:
        """Parameters and persistent buffers by name, without those of submodules."""
        passing = self.attributes.get("_non_persistent_buffers_set", ())
        for table in ("_parameters", "_buffers"):
            for name, value in self._table(table).items():
                if isinstance(value, StoredTensor) and name not in passing:
                    yield name, value

    def _table(self, name: str) -> dict[str, Any]:
        table = self.attributes.get(name, {})
        if not isinstance(table, dict):
            raise pickle.UnpicklingError(f"{name} of a {self.kind} is not a mapping")
        return table


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet."""

    storage: bytes
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor, on the CPU. Raises what `DAMAGE` lists, or RuntimeError, if it is damaged."""
        stored = torch.load(io.BytesIO(self.storage), map_location="cpu", weights_only=True)
        if not isinstance(stored, torch.storage.TypedStorage):
            raise pickle.UnpicklingError("a tensor's storage has no type")
        # what torch's own rebuilding of tensors does: the public way to a typed storage's bytes is deprecated
        flat = torch.empty(0, dtype=stored.dtype).set_(stored._untyped_storage)
        if torch.Size(self.shape).numel() > flat.numel():
            raise pickle.UnpicklingError("a tensor is larger than its storage")
        return flat.as_strided(self.shape, self.stride, self.offset).clone()


def read_network(path: Path) -> dict[str, Any]:
    """The mapping in a network pickle, as `Module`, `StoredTensor`, `Record` and plain values.

    Raises InputError where the file is missing, is no such pickle, is truncated, or uses a name that a
    network has no need of.
    """
    if zipfile.is_zipfile(path):
        raise InputError(f"{path}: a PyTorch or zip archive, not the pickle of networks that is published")
    try:
        with path.open("rb") as file:
            loaded = _Reader(file).load()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except RefusedError as error:
        raise InputError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise InputError(f"{path}: truncated, or no network pickle ({error})") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: not a pickle of networks by name (G_ema), but a {_kind(loaded)}")
    return loaded


def as_module(value: Any) -> Module | None:
    """A pickled value as a module, where it is one."""
    if isinstance(value, Module):
        return value
    if isinstance(value, Record) and isinstance(value.state, dict) and "_modules" in value.state:
        return Module(value.origin.rpartition(".")[2], value.state)
    return None


class _Reader(pickle.Unpickler):
    """An unpickler that knows listed names only."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _READ:
            return _READ[full]
        if full in RECORDED_NAMES or full.startswith(RECORDED):
            return type(name, (Record,), {"origin": full})
        raise RefusedError(f"it asks for {full}, which no network needs: it is not read")

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError(f"it asks for something outside the file ({str(pid)[:40]}): it is not read")


def _kind(value: Any) -> str:
    return value.origin if isinstance(value, Record) else type(value).__name__


def _persistent(meta: dict[str, Any]) -> Module:
    """What `torch_utils.persistence` executes source for."""
    state = meta["state"]
    if not isinstance(state, dict):
        raise pickle.UnpicklingError("a persistent object has no state")
    return Module(str(meta["class_name"]), state)


def _tensor(storage: Any, offset: int, shape: Any, stride: Any, *_rest: Any) -> StoredTensor:
    if not isinstance(storage, bytes):
        raise pickle.UnpicklingError("a tensor has no storage")
    return StoredTensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def _storage(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a storage is not bytes")
    return data


def _parameter(data: Any, *_rest: Any) -> Any:
    return data


def _number(dtype: Record, data: bytes = b"") -> float | int | bool:
    """A numpy scalar of a simple type."""
    code = NUMBERS.get(str(dtype.arguments[0]))
    if code is None:
        raise pickle.UnpicklingError(f"a numpy number of type {dtype.arguments[0]}")
    order = dtype.state[1] if isinstance(dtype.state, tuple) else "<"
    return struct.unpack((">" if order == ">" else "<") + code, data)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise RefusedError(f"it asks for the text encoding {encoding}: it is not read")
    return text.encode("latin1")


_READ: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "torch.Size": tuple,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "_codecs.encode": _encode,
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.set": set,
}
