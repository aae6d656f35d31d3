"""Memory settings of diffusers' pipelines: CPU offloading, and slicing and tiling of the VAE."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from core.devices import CPU, CUDA, MPS, find_device
from core.errors import InputError


class OffloadingMixin:
    """CPU offloading for a `DiffusionPipeline` that calls modules of its networks instead of their `forward`,
    to which accelerate attaches its hooks."""

    model: Any  # attributes of the pipeline: a PortraitModel, its VAE, and their device
    vae: Any
    device: torch.device
    _offload_device: torch.device | None = None
    _by_layers = False

    def to(self, *args: Any, **options: Any) -> Self:
        """Move networks to a device, change their data type, or both, as in PyTorch.

        Raises InputError for a GPU that this machine does not have.
        """
        for value in (*args, options.get("device")):
            if isinstance(value, str | torch.device | int):
                _check_device(value)
        return super().to(*args, **options)  # type: ignore[misc]

    @property
    def _execution_device(self) -> torch.device:
        """The device that networks run on; between calls they may be on another."""
        return self._offload_device or self.device

    def enable_model_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> Self:
        """Keep networks on the CPU, and move those of a phase of sampling (VAE, S, denoiser, VAE) to the GPU.
        Without a GPU it has no effect."""
        self._start_offloading(gpu_id, device)
        return self

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> Self:
        """Keep networks on the CPU, and move one layer at a time to the GPU, which needs the least memory and
        is slow. Without a GPU it has no effect."""
        self._start_offloading(gpu_id, device)
        if self._offload_device is not None and not self._by_layers:
            self._by_layers = True
            for network in self._networks():
                offload_layers(network, self._offload_device)
        return self

    def _start_offloading(self, gpu_id: int | None, device: torch.device | str | None) -> None:
        chosen = torch.device(device) if device is not None else _first_gpu(gpu_id)
        if self._by_layers:
            raise InputError("layers are offloaded already: load the pipeline again to change that")
        if chosen is not None:
            _move(self._networks(), torch.device("cpu"))
            self._offload_device = chosen

    def _networks(self) -> list[nn.Module]:
        model = self.model
        parts = (model.backbone.vae, model.backbone.unet, model.reference, model.control, model.cross_view)
        further = (model.noise_prior, model.preview_decoder)
        return [part for part in (*parts, *further) if part is not None]

    @contextmanager
    def _loaded(self, *networks: nn.Module | None) -> Iterator[None]:
        """Keep networks on the execution device during the block."""
        device = None if self._by_layers else self._offload_device
        moved = [network for network in networks if network is not None and device is not None]
        try:
            _move(moved, device)
            yield
        finally:
            _move(moved, torch.device("cpu"))

    def enable_vae_slicing(self) -> None:
        """Encode and decode one image at a time."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Encode and decode `chunk` images at a time."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Encode and decode large images tile by tile."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Encode and decode whole images."""
        self.vae.disable_tiling()

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """Accepted without effect: PyTorch's attention, in use here, stores no attention matrix."""

    def disable_attention_slicing(self) -> None:
        """Accepted without effect."""

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None) -> None:
        """Accepted without effect: PyTorch's attention, in use here, is equally memory-efficient."""


def offload_layers(network: nn.Module, device: torch.device) -> None:
    """Make each layer of a network on the CPU run on a device; its weights are there only while it runs.

    A layer is a module with its own parameters or buffers; its inputs are moved as well.
    """
    for module in network.modules():
        if any(True for _ in _own_tensors(module)):
            layer = OffloadedLayer(device)
            module.register_forward_pre_hook(layer.load, with_kwargs=True)
            module.register_forward_hook(layer.unload, always_call=True)


class OffloadedLayer:
    """Hooks of a layer that is kept on the CPU and runs on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kept: list[tuple[str, Tensor]] = []

    def load(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Replace the weights by copies on the device, and move the inputs there."""
        self.kept = list(_own_tensors(module))
        for name, tensor in self.kept:
            copy = tensor.detach().to(self.device)
            setattr(module, name, nn.Parameter(copy, False) if isinstance(tensor, nn.Parameter) else copy)
        return _moved(args, self.device), _moved(kwargs, self.device)

    def unload(self, module: nn.Module, *_: Any) -> None:
        """Restore the weights on the CPU."""
        for name, tensor in self.kept:
            setattr(module, name, tensor)
        self.kept = []


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's parameters and buffers by name, without those of the modules in it."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _move(networks: Sequence[nn.Module], device: torch.device | None) -> None:
    for network in networks:
        nn.Module.to(network, device)


def _moved(values: Any, device: torch.device) -> Any:
    """A layer's inputs with their tensors moved to a device."""
    if isinstance(values, Tensor):
        return values.to(device)
    if isinstance(values, tuple | list):
        return type(values)(_moved(value, device) for value in values)
    if isinstance(values, Mapping):
        return {name: _moved(value, device) for name, value in values.items()}
    return values


def _check_device(value: str | torch.device | int) -> None:
    """Raise InputError unless this is a device of PyTorch and, if it is a GPU, one that this machine has."""
    try:
        device = torch.device(value)
    except RuntimeError:
        name = str(value)
    else:
        name = str(device) if device.type in (CUDA, MPS) else CPU
    find_device(name, "to")


def _first_gpu(gpu_id: int | None) -> torch.device | None:
    if torch.cuda.is_available():
        return torch.device("cuda", gpu_id or 0)
    return torch.device("mps") if torch.backends.mps.is_available() else None
