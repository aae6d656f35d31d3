"""The interface of all systems of the comparison (Tables 1a and 3): from a portrait and cameras to views."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from portraits.cameras import check_labels
from portraits.pixels import Images

Cameras = NDArray[np.float32]


@dataclass(frozen=True)
class Request:
    """A request for views of one person.

    Args:
        name: name of the person, which together with `seed` determines a system's random draws
        portraits: (R, S, S, 3) uint8, cropped as in EG3D; systems for one portrait use the first
        portrait_cameras: their EG3D labels (R, 25)
        cameras: EG3D labels (K, 25) of the views
        masks: (R, S, S) uint8, 255 on the person, for systems that remove the background
        conditions: (K, S, S, 3) uint8, another person at `cameras`, for systems that use them (ours)
        seed: seed of random draws

    Raises InputError if shapes do not fit each other or a label is no camera.
    """

    name: str
    portraits: Images
    portrait_cameras: Cameras
    cameras: Cameras
    masks: Images | None = None
    conditions: Images | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        shape = self.portraits.shape
        if len(shape) != 4 or 0 in shape or shape[1] != shape[2] or shape[3] != 3:
            raise InputError(f"{self.name}: portraits have shape {shape}, not (R, S, S, 3)")
        own = check_labels(self.portrait_cameras, f"{self.name}: portrait cameras")
        check_labels(self.cameras, f"{self.name}: cameras")
        if len(own) != len(self.portraits):
            raise InputError(f"{self.name}: {len(own)} cameras for {len(self.portraits)} portraits")
        if self.masks is not None and self.masks.shape != shape[:3]:
            raise InputError(f"{self.name}: masks have shape {self.masks.shape}, portraits {shape}")
        if self.conditions is not None and len(self.conditions) != len(self.cameras):
            count = len(self.conditions)
            raise InputError(f"{self.name}: {count} conditions for {len(self.cameras)} cameras")


class ViewSynthesizer(Protocol):
    """A system that generates views of a person from a portrait. `name` is its name in tables, `native_size`
    the side of its images, `licence` the terms of its weights in one line."""

    name: str
    native_size: int
    licence: str

    def views(self, request: Request) -> Images:
        """Generate views (K, `native_size`, `native_size`, 3) uint8. The same request gives the same views.
        Raises InputError if required masks or conditions are missing."""


class Baseline(ViewSynthesizer, Protocol):
    """A system that is loaded from a folder of weights. `Settings` is a frozen dataclass and a schema
    (`core.schema`) with defaults for all fields: the settings, besides the weights, that its images depend
    on."""

    Settings: ClassVar[type]

    @classmethod
    def check(cls, folder: Path) -> None:
        """Raise InputError if the folder does not hold this system's weights; quick, without reading
        them."""

    @classmethod
    def open(cls, folder: Path, device: str = "cpu", settings: Any = None) -> Self:
        """The system on a device, in float32. Raises InputError if a file is missing, damaged or of
        another network."""
