"""A restricted reader of the network pickles of StyleGAN2's descendants: no code in them is executed.

Their modules are "persistent": each carries its source code, which the original reader executes. Here a
pickle may only use the names listed below. Classes become `Record`s of their arguments, and source code
remains text. Memory is bounded by the size of the file.
"""

import io
import pickle
import pickletools
import reprlib
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from core.downloads import check_downloaded
from core.errors import InputError

# Names of classes that are read as records; the packages are not imported.
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
STORAGE_MAGIC, STORAGE_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
COUNT = struct.Struct("<q")
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAX_DIMENSIONS = 8
MAX_OPERATIONS = 1_000_000  # published networks have about ten thousand
SPARE = 1 << 20  # bytes that a small file may unpack to beyond its size
LONGEST = 80  # characters of a value in an error
# Raised by the unpickler for malformed pickles.
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
    """A pickle uses a name that no network needs, or needs more memory than its size allows."""


class Record(dict):  # type: ignore[type-arg]
    """An object of a class that is not imported: its `arguments`, `state`, and items if it is a mapping."""

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
    """A pickled module: the name of its class and its attributes."""

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
        dropped = self.attributes.get("_non_persistent_buffers_set", ())
        for table in ("_parameters", "_buffers"):
            for name, value in self._table(table).items():
                if isinstance(value, StoredTensor) and name not in dropped:
                    yield name, value

    def _table(self, name: str) -> dict[str, Any]:
        table = self.attributes.get(name, {})
        if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
            raise pickle.UnpicklingError(f"{name} of a {self.kind} is not a mapping of names")
        return table


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not read yet: a serialized storage, and offset, shape and strides within it."""

    storage: bytes
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor, on the CPU. Raises what `DAMAGE` lists, or RuntimeError, if it is damaged."""
        flat = read_storage(self.storage)
        if torch.Size(self.shape).numel() > flat.numel():
            raise pickle.UnpicklingError("a tensor is larger than its storage")
        return flat.as_strided(self.shape, self.stride, self.offset).clone()


def read_storage(data: bytes) -> Tensor:
    """Read the flat tensor of a storage in PyTorch's format before 1.6, which `torch.Storage.__reduce__`
    still writes: five pickles, then the count and the values.

    Raises UnpicklingError or another exception in `DAMAGE` for other data.
    """
    file = io.BytesIO(data)
    header = [_StorageReader(file).load() for _ in range(5)]
    if header[:2] != [STORAGE_MAGIC, STORAGE_PROTOCOL] or not isinstance(header[3], _StorageClaim):
        raise pickle.UnpicklingError("a tensor's storage is not in PyTorch's format")
    claim, start = header[3], file.tell() + COUNT.size
    (count,) = COUNT.unpack(data[file.tell() : start])
    size = count * claim.dtype.itemsize
    if count != claim.count or count < 0 or start + size > len(data):
        raise pickle.UnpicklingError("a tensor's storage is truncated")
    if count == 0:
        return torch.empty(0, dtype=claim.dtype)
    return torch.frombuffer(bytearray(data[start : start + size]), dtype=claim.dtype)


@dataclass(frozen=True)
class _StorageClaim:
    """Type and number of a storage's values according to its header."""

    dtype: torch.dtype
    count: int


class _StorageReader(pickle.Unpickler):
    """Reader of a storage's header: numbers, text and one persistent id."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        raise RefusedError(f"a tensor's storage asks for {module}.{name}: the file is refused")

    def persistent_load(self, pid: Any) -> _StorageClaim:
        if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage":
            dtype, count = pid[1], pid[4]
            if isinstance(dtype, torch.dtype) and type(count) is int:
                return _StorageClaim(dtype, count)
        raise pickle.UnpicklingError("a tensor's storage has no type")


def read_network(path: Path) -> dict[str, Any]:
    """Read the mapping in a network pickle, as `Module`, `StoredTensor`, `Record` and plain values.

    Raises InputError if the file is missing, is not such a pickle, is truncated, uses a name that no network
    needs, or would need more memory than its size.
    """
    check_downloaded(path)
    if zipfile.is_zipfile(path):
        raise InputError(f"{path}: a PyTorch or zip archive, not a pickle of networks as published")
    try:
        with path.open("rb") as file:
            _check_length(file)
            loaded = _NetworkReader(file, path.stat().st_size).load()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except RefusedError as error:
        raise InputError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise InputError(f"{path}: truncated, or no network pickle ({shown(error)})") from error
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise InputError(f"{path}: not a pickle of networks by name (G_ema), but a {_kind(loaded)}")
    return loaded


def shown(value: object) -> str:
    """A value from a pickle, or an error about one, shortened for error messages."""
    if isinstance(value, BaseException):
        return (str(value).splitlines() or [type(value).__name__])[0][:LONGEST]
    try:
        return reprlib.repr(value)[:LONGEST]
    except ValueError:  # an integer of more than 4,300 digits
        return f"a {type(value).__name__}"


def as_module(value: Any) -> Module | None:
    """A pickled value as a module; None if it is not one."""
    if isinstance(value, Module):
        return value
    if isinstance(value, Record) and isinstance(value.state, dict) and "_modules" in value.state:
        return Module(value.origin.rpartition(".")[2], value.state)
    return None


def _check_length(file: BinaryIO) -> None:
    """Raise RefusedError for a pickle of more operations than any network has, as one byte can create an
    object of hundreds. Rewinds the file."""
    for number, _ in enumerate(pickletools.genops(file)):
        if number > MAX_OPERATIONS:
            raise RefusedError(
                f"it has more than {MAX_OPERATIONS:,} values, as no network has: the file is refused"
            )
    file.seek(0)


class _NetworkReader(pickle.Unpickler):
    """An unpickler restricted to the listed names. The total size of the objects that they create, also from
    values that a pickle refers to repeatedly, is limited by the size of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file)
        self._left = size + SPARE
        self._functions: dict[str, Callable[..., Any]] = {
            "_codecs.encode": self._encode,
            "builtins.set": self._set,
            "__builtin__.set": self._set,
            "builtins.frozenset": self._frozenset,
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        known = self._functions.get(full) or FUNCTIONS.get(full)
        if known is not None:
            return known
        if full in RECORDED_NAMES or full.startswith(RECORDED):
            return type(name, (Record,), {"origin": full})
        raise RefusedError(f"it asks for {full[:LONGEST]}, which no network needs: the file is refused")

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError(f"it asks for something outside the file ({shown(pid)}): the file is refused")

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise RefusedError("it unpacks to more than its size, as no network does: the file is refused")

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise RefusedError(f"it asks for the text encoding {shown(encoding)}: the file is refused")
        self._take(len(text))
        return text.encode("latin1")

    def _set(self, items: Collection[Any] = ()) -> set[Any]:
        self._take(len(items))
        return set(items)

    def _frozenset(self, items: Collection[Any] = ()) -> frozenset[Any]:
        self._take(len(items))
        return frozenset(items)


def _kind(value: Any) -> str:
    return value.origin if isinstance(value, Record) else type(value).__name__


def _persistent(meta: dict[str, Any]) -> Module:
    """Replaces `torch_utils.persistence`, which executes the source code in `meta`."""
    state = meta["state"]
    if not isinstance(state, dict):
        raise pickle.UnpicklingError("a persistent object has no state")
    return Module(str(meta["class_name"])[:LONGEST], state)


def _tensor(storage: Any, offset: int, shape: Any, stride: Any, *_rest: Any) -> StoredTensor:
    if not isinstance(storage, bytes):
        raise pickle.UnpicklingError("a tensor has no storage")
    return StoredTensor(storage, int(offset), _sizes(shape), _sizes(stride))


def _sizes(values: Any) -> tuple[int, ...]:
    """A shape or strides."""
    if not isinstance(values, tuple) or len(values) > MAX_DIMENSIONS:
        raise pickle.UnpicklingError(f"a tensor has the shape {shown(values)}")
    if not all(type(value) is int and 0 <= value < 1 << 40 for value in values):
        raise pickle.UnpicklingError(f"a tensor has the shape {shown(values)}")
    return values


def _storage(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a storage is not bytes")
    return data


def _parameter(data: Any, *_rest: Any) -> Any:
    return data


def _number(dtype: Record, data: bytes = b"") -> float | int | bool:
    """Read a numpy scalar of a simple type."""
    code = NUMBERS.get(str(dtype.arguments[0]))
    if code is None:
        raise pickle.UnpicklingError(f"a numpy number of type {shown(dtype.arguments[0])}")
    order = dtype.state[1] if isinstance(dtype.state, tuple) else "<"
    return struct.unpack((">" if order == ">" else "<") + code, data)[0]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "torch.Size": _sizes,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "collections.OrderedDict": OrderedDict,
}
