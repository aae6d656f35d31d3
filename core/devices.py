"""Devices of this machine: the CPU, NVIDIA's GPUs ("cuda:0"), and Apple's ("mps")."""

import torch

from core.errors import InputError

CPU, CUDA, MPS = "cpu", "cuda", "mps"
NO_FLOAT64 = (MPS,)


def find_device(name: str | None = None, option: str = "--device") -> str:
    """The device of this name; by default an NVIDIA GPU where there is one, otherwise the CPU.

    Raises InputError, naming the option, for a device that this machine does not have.
    """
    if name is None:
        return CUDA if torch.cuda.device_count() else CPU
    kind, _, number = name.partition(":")
    counts = {CPU: 1, CUDA: torch.cuda.device_count(), MPS: int(torch.backends.mps.is_available())}
    if kind not in counts or (number or "0") not in map(str, range(counts[kind])):
        raise InputError(f"{option} {name}: {_missing(kind)}; this machine has {_described(counts)}")
    return name


def find_devices(count: int | None = None, name: str | None = None) -> list[str]:
    """`count` devices: by default all GPUs of NVIDIA's, or without one the CPU once.

    With the name of one device ("cuda:1", "mps") it is that one, and with "cuda" or "cpu" `count` of that
    kind; the CPU can be given several times. Raises InputError for more devices than there are.
    """
    if count is not None and count < 1:
        raise InputError(f"--devices {count}: give 1 or more")
    device = find_device(name)
    if device == CPU:
        return [CPU] * (count or 1)
    if device != CUDA:
        if count is not None and count > 1:
            raise InputError(f"--devices {count}: --device {name} is one device")
        return [device]
    gpus = torch.cuda.device_count()
    if count is not None and count > gpus:
        raise InputError(f"--devices {count}: this machine has {gpus}")
    return [f"{CUDA}:{number}" for number in range(count or gpus)]


def has_float64(device: torch.device | str) -> bool:
    """Whether a device has tensors of float64, which Apple's GPUs lack."""
    return torch.device(device).type not in NO_FLOAT64


def _missing(kind: str) -> str:
    """Why a device cannot be had."""
    if kind == MPS:
        built = torch.backends.mps.is_built()
        return "PyTorch finds no Apple GPU" if built else "PyTorch is built without support for Apple's GPUs"
    return "no such device"


def _described(counts: dict[str, int]) -> str:
    """The devices that there are, in words."""
    gpus = [f"{counts[CUDA]} GPUs (cuda:N)"] if counts[CUDA] else []
    return " and ".join([CPU, *gpus, *([MPS] if counts[MPS] else [])])
