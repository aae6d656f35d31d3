"""A simulated accelerator: tensors on it have shapes, dtypes and a device, but no contents and no memory.

Operations on the CPU are computed as usual, so that seeds and schedules have their real values. A tensor
that is moved back to the CPU is zero. A tensor on the wrong device or of the wrong dtype ends the
computation, as on an accelerator.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
HALVES = (torch.float16, torch.bfloat16)
# Operations whose floating-point inputs have one dtype on an accelerator; fake tensors do not check it.
ONE_DTYPE = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.native_group_norm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
}


class SimulatedDevice(FakeTensorMode):
    """While it is active, tensors that are made on or moved to a device other than the CPU take no memory.

    Build networks directly on the device (`with torch.device(...)`), as PyTorch cannot move fake parameters.
    Backward passes cannot be simulated: autograd requires the real accelerator. "mps" cannot be simulated
    where PyTorch is built without it: use "cuda" with `float64` False, as Apple's GPUs have no float64.
    """

    def __init__(self, float64: bool = True) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.float64 = float64

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, for real where everything in it is on the CPU."""
        leaves = tree_leaves((args, kwargs or {}))
        devices = [torch.device(x) for x in leaves if isinstance(x, torch.device)]
        if not any(isinstance(x, FakeTensor) for x in leaves) and all(x.type == "cpu" for x in devices):
            return func(*args, **(kwargs or {}))
        if func is aten._to_copy.default and devices and devices[0].type == "cpu":
            return torch.zeros(args[0].shape, dtype=(kwargs or {}).get("dtype") or args[0].dtype)
        if func is aten._to_copy.default and not isinstance(args[0], FakeTensor):
            # on the CPU first, as only the result's dtype is to be the device's
            args = (args[0].to((kwargs or {}).get("dtype") or args[0].dtype),)
        if func in ONE_DTYPE:
            dtypes = {x.dtype for x in leaves if isinstance(x, Tensor) and x.is_floating_point()}
            if len(dtypes) > 1:
                raise RuntimeError(f"{func}: inputs of {' and '.join(sorted(map(str, dtypes)))}")
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if not self.float64 and any(_is_float64(x) for x in tree_leaves(result)):
            raise RuntimeError(f"{func}: float64, which this device does not have")
        return result


def _is_float64(value: Any) -> bool:
    return isinstance(value, FakeTensor) and value.device.type != "cpu" and value.dtype == torch.float64


class FusedAttention(TorchFunctionMode):
    """Attention by the kernels that a GPU takes: flash attention in half precision, the memory-efficient one
    in float32. PyTorch chooses by the GPU's properties, and without a GPU it takes neither."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function; a fused kernel where it is attention on an accelerator."""
        if func is not F.scaled_dot_product_attention or args[0].device.type == "cpu":
            return func(*args, **(kwargs or {}))
        device, needs_grad = args[0].device.type, torch.is_grad_enabled()
        if torch.is_autocast_enabled(device):
            args = tuple(x.to(torch.get_autocast_dtype(device)) for x in args)
        if args[0].dtype in HALVES:
            return aten._scaled_dot_product_flash_attention(*args)[0]
        return aten._scaled_dot_product_efficient_attention(*args, None, needs_grad)[0]


@contextmanager
def simulated_device(float64: bool = True) -> Iterator[None]:
    """Simulates accelerators, attention's kernels included; without `float64` those of Apple."""
    with SimulatedDevice(float64), FusedAttention():
        yield


@contextmanager
def autocast(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """`torch.autocast` to `dtype`, or none; also for a device that this machine does not have, for which
    PyTorch's own does nothing."""
    kind = torch.device(device).type
    before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    torch.autocast_increment_nesting()
    try:
        torch.set_autocast_enabled(kind, dtype is not None)
        if dtype is not None:
            torch.set_autocast_dtype(kind, dtype)
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(kind, before[0])
        torch.set_autocast_dtype(kind, before[1])
