import pytest
import torch

from core.devices import find_device, find_devices, has_float64
from core.errors import InputError


@pytest.fixture
def machine(monkeypatch):
    """A function that sets the machine's GPUs: how many of NVIDIA's, and whether there is Apple's."""

    def has(gpus: int = 0, apple: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)

    return has


def test_default_is_every_nvidia_gpu_or_the_cpu(machine):
    machine(gpus=2, apple=False)
    assert (find_device(), find_devices()) == ("cuda", ["cuda:0", "cuda:1"])
    machine(apple=True)
    assert (find_device(), find_devices(), find_devices(3)) == ("cpu", ["cpu"], ["cpu"] * 3)


def test_named_devices(machine):
    machine(gpus=2, apple=True)
    for name in ("cpu", "cuda", "cuda:1", "mps", "mps:0"):
        assert find_device(name) == name
    assert find_devices(None, "cuda") == ["cuda:0", "cuda:1"]
    assert find_devices(1, "cuda") == ["cuda:0"]
    assert find_devices(None, "cuda:1") == ["cuda:1"]
    assert find_devices(1, "mps") == ["mps"]
    assert find_devices(2, "cpu") == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [
        (0, "cuda", r"--device cuda: no such device; this machine has cpu$"),
        (2, "cuda:2", r"no such device; this machine has cpu and 2 GPUs \(cuda:N\)$"),
        (0, "mps", r"--device mps: PyTorch .* Apple.*; this machine has cpu$"),
        (0, "tpu", "--device tpu: no such device"),
        (1, "cuda:first", "--device cuda:first: no such device"),
        (0, "cpu:1", "--device cpu:1: no such device"),
    ],
)
def test_devices_that_are_not_there_are_input_errors(machine, gpus, name, message):
    machine(gpus)
    for find in (find_device, lambda name: find_devices(None, name)):
        with pytest.raises(InputError, match=message):
            find(name)


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (0, None, "--devices 0: give 1 or more"),
        (3, None, "--devices 3: this machine has 2"),
        (2, "cuda:1", "--devices 2: --device cuda:1 is one device"),
        (2, "mps", "--devices 2: --device mps is one device"),
    ],
)
def test_more_devices_than_there_are_is_an_input_error(machine, count, name, message):
    machine(gpus=2, apple=True)
    with pytest.raises(InputError, match=message):
        find_devices(count, name)


def test_only_apples_gpus_lack_float64():
    assert [name for name in ("cpu", "cuda", "cuda:1", "mps", "mps:0") if not has_float64(name)] == [
        "mps",
        "mps:0",
    ]
