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
    """Options of a GAN as the renderer of condition images: EG3D or PanoHead, depending on the folder.

    Args:
        folder: the generator's folder, as `import-gan` writes it
        truncation: 1 samples the generator's full variety, 0 gives the average identity
        seed: seed of the latents; identities with the same number differ between seeds
        faces: draw identities again if no face is detected in their frontal image
        resolution: side of the volume rendering in pixels, 0 for the checkpoint's
        precision: precision of the convolutions
        compile: run convolutions and decoder through torch.compile
        frame: coordinate frame of the head. "own" uses EG3D labels as the generator's own cameras; "measured"
            aligns the average identity's detected face with EG3D's. By default "own" for EG3D and "measured"
            for PanoHead, whose heads are centred at the origin
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
                f"{self.folder}: truncation must be from 0 to 1.5, seed and resolution 0 or more"
            )

    @property
    def kind(self) -> Kind:
        """EG3D or PanoHead, read from the folder. Raises InputError if it is not a generator folder."""
        from generators.gan.folder import read_settings  # imports torch

        return read_settings(Path(self.folder)).kind

    def check(self, kind: Kind | None = None) -> None:
        """Raise InputError unless the folder holds a generator, of `kind` if given."""
        found = self.kind
        if kind is not None and found != kind:
            raise InputError(f"{kind}:{self.folder}: the generator in that folder is {found}")

    def measures_frame(self) -> bool:
        """Whether the head's coordinate frame is measured. Raises InputError."""
        return (self.frame or default_frame(self.kind)) == "measured"


def default_frame(kind: Kind) -> Frame:
    """The default frame: EG3D's heads match EG3D labels, PanoHead's do not."""
    return "measured" if kind == "panohead" else "own"
