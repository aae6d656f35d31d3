"""Peak memory of a computation's tensors, on any device."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class TensorMemory(TorchDispatchMode):
    """A mode that counts the bytes of live tensors created within it; `peak` is their maximum.

    Earlier tensors (weights, inputs) and temporary memory inside operations are not counted.
    `device`: count only tensors on devices of this type, e.g. "cuda".
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = device
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count its new tensors."""
        for storage in self._storages((args, kwargs)):
            self._known[storage] = True
        result = func(*args, **(kwargs or {}))
        for storage in self._storages(result):
            if storage not in self._known:
                self._known[storage] = True
                self._count(storage.nbytes())
                weakref.finalize(storage, self._count, -storage.nbytes())
        return result

    def _count(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def _storages(self, values: Any) -> list[UntypedStorage]:
        tensors = [x for x in tree_leaves(values) if isinstance(x, Tensor)]
        return [x.untyped_storage() for x in tensors if self.device in (None, x.device.type)]


def tensor_bytes(tensors: Iterable[Tensor], device: str | None = None) -> int:
    """The bytes of tensors' storages, each counted once; with a `device` only of those on that type."""
    storages = [x.untyped_storage() for x in tensors if device in (None, x.device.type)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
