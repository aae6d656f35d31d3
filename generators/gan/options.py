"""Settings of a 3D GAN used as a renderer: which generator, which identities, and how they are rendered."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.errors import InputError
from generators.gan.architecture import Kind

Precision = Literal["float32", "bfloat16"]
Frame = Literal["measured", "own"]


@dataclass(frozen=True)
class GeneratorOptions:
    """A GAN as the renderer of condition images: EG3D or PanoHead, whichever the folder holds.

    Args:
        folder: the generator's folder, as `import-gan` writes it
        truncation: 1 samples the generator's whole variety, 0 gives the average identity
        seed: of the latents; with another one every number is another identity
        faces: identities in whose frontal image no face is detected are drawn again
        resolution: side of the volume rendering in pixels, 0 for the checkpoint's
        precision: of the convolutions
        compile: run convolutions and decoder through torch.compile
        frame: coordinate frame of the head. "own" uses EG3D labels as the generator's own cameras; "measured"
            detects the average identity's face and moves it to where EG3D has faces. By default "own" for
            EG3D and "measured" for PanoHead, whose heads are centred at the origin
    """

    folder: str
    truncation: float = 0.7
    seed: int = 0
    faces: bool = True
    resolution: int = 0
    precision: Precision = "float32"
    compile: bool = False
    frame: Frame | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.truncation <= 1.5 or self.seed < 0 or self.resolution < 0:
            raise InputError(
                f"{self.folder}: truncation is from 0 to 1.5; seed and resolution are not negative"
            )

    @property
    def kind(self) -> Kind:
        """EG3D or PanoHead, read from the folder. Raises InputError where it is not a generator's."""
        from generators.gan.folder import read_settings  # imports torch

        return read_settings(Path(self.folder)).kind

    def check(self, kind: Kind | None = None) -> None:
        """Raise InputError unless the folder holds a generator, and of this kind where one is given."""
        found = self.kind
        if kind is not None and found != kind:
            raise InputError(f"{kind}:{self.folder}: the generator in that folder is {found}")

    def measures_frame(self) -> bool:
        """Whether the head's coordinate frame is measured. Raises InputError."""
        return (self.frame or default_frame(self.kind)) == "measured"


def default_frame(kind: Kind) -> Frame:
    """The frame where none is given: EG3D's heads are where EG3D labels have them, PanoHead's are not."""
    return "measured" if kind == "panohead" else "own"
