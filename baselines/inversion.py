"""EG3D-PTI and PanoHead-PTI: pivotal tuning inversion (A.4) behind the interface of the comparison."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from PIL import Image

from baselines.base import Request
from core.schema import STRICT
from generators.gan.architecture import Kind
from generators.gan.options import Frame, GeneratorOptions
from generators.gan.renderer import GeneratedHead
from generators.inversion.pivotal import Inversion, Tuning
from generators.inversion.portraits import Portrait, views_at
from generators.inversion.run import invert_one, render_views, system_name
from portraits.pixels import Images


@dataclass(frozen=True)
class InversionSettings:
    """Settings of an inversion.

    Args:
        tuning: steps, learning rates and loss weights
        frame: coordinate frame of the head (`GeneratorOptions.frame`); by default measured for PanoHead
    """

    __pydantic_config__: ClassVar = STRICT

    tuning: Tuning = field(default_factory=Tuning)
    frame: Frame | None = None


class PivotalTuning:
    """Inverts a portrait into a generator, and renders it at new cameras; the folder is the generator's."""

    Settings: ClassVar[type] = InversionSettings
    kind: ClassVar[Kind]
    licence: str

    def __init__(self, head: GeneratedHead, settings: InversionSettings) -> None:
        self.head, self.settings = head, settings
        self.inversion = Inversion(head.generator, settings.tuning)
        self.name = system_name(head.kind, settings.tuning)
        self.native_size = head.generator.architecture.size

    @classmethod
    def check(cls, folder: Path) -> None:
        """See `Baseline.check`."""
        GeneratorOptions(str(folder)).check(cls.kind)

    @classmethod
    def open(cls, folder: Path, device: str = "cpu", settings: InversionSettings | None = None) -> Self:
        """See `Baseline.open`. Raises InputError also where the perceptual network's weights are missing."""
        settings = settings or InversionSettings()
        options = GeneratorOptions(str(folder), frame=settings.frame)
        options.check(cls.kind)
        return cls(GeneratedHead(options, device), settings)

    def views(self, request: Request) -> Images:
        """See `ViewSynthesizer.views`; deterministic, so that the seed has no effect."""
        image, camera = Image.fromarray(request.portraits[0]), request.portrait_cameras[0]
        portrait = Portrait(request.name, image, camera, views_at(request.name, request.cameras))
        inverted = invert_one(self.head, self.inversion, portrait)
        return render_views(self.head, inverted, request.cameras, self.native_size)


class EG3DInversion(PivotalTuning):
    """EG3D-PTI."""

    kind = "eg3d"
    licence = "NVIDIA's EG3D licence: research and evaluation only"


class PanoHeadInversion(PivotalTuning):
    """PanoHead-PTI."""

    kind = "panohead"
    licence = "see PanoHead's repository: the terms of its weights were not checked here"
