"""Precision by device, and distribution of people and windows over devices."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, Protocol, TypeVar

from core.errors import InputError

Precision = Literal["float32", "float16", "bfloat16"]
Item = TypeVar("Item")
Result = TypeVar("Result")


class DeviceMap(Protocol):
    """A `map` whose function also receives the index of the device to run on."""

    def __call__(self, function: Callable[[Item, int], Result], items: Sequence[Item]) -> list[Result]:
        """Call `function(item, device)` for each item; returns results in the order of the items."""
        ...


@contextmanager
def device_map(devices: int) -> Iterator[DeviceMap]:
    """A `DeviceMap` over `devices` devices: item i runs on device i modulo `devices`, each in its own thread.

    With one device it runs in the calling thread.
    """
    with ThreadPoolExecutor(devices) as pool:

        def run(function: Callable[[Item, int], Result], items: Sequence[Item]) -> list[Result]:
            def on_device(device: int) -> list[Result]:
                return [function(item, device) for item in items[device::devices]]

            shares = list((map if devices == 1 else pool.map)(on_device, range(devices)))
            return [shares[index % devices][index // devices] for index in range(len(items))]

        yield run


def group_devices(devices: Sequence[str], people: int, windows: int) -> list[list[str]]:
    """Group devices; each group samples a share of the people.

    With at least as many people as devices, each group has one device. Otherwise there is a group for each
    person, whose devices share the windows of the path; devices in excess of the windows are not used.
    """
    count = min(len(devices), people)
    return [list(devices[first::count])[:windows] for first in range(count)]


def check_precision(precision: Precision, devices: Sequence[str]) -> None:
    """Raise InputError if the precision is not supported on one of the devices."""
    if precision == "float16" and "cpu" in devices:
        raise InputError("--precision float16 needs a GPU: on a CPU choose bfloat16 or float32")
