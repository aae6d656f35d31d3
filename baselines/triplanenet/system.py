"""TriPlaneNet v2 as a system: planes are computed once per portrait, then rendered at any number of cameras.

Shape letters: N portraits, S side of EG3D's planes, W styles, Z numbers of a style.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from baselines.base import Request
from baselines.folders import Card, check_folder, networks_file, open_generator
from baselines.layers import load_networks
from baselines.rendering import check_styles, crop, halved, pixels_of, rendering, view_images
from baselines.triplanenet.encoders import COARSE, MIDDLE, TriPlaneEncoders, Widths
from core.errors import InputError
from core.schema import STRICT
from core.tensors import read_tensors
from generators.gan.generator import Generator, Identity, Rendering, Views
from portraits.pixels import Images

KIND = "triplanenet"
# Flat entries of a label that change sign where the camera is mirrored in the plane x = 0.
MIRRORED = (1, 2, 3, 4, 8)
COARSEST = 16  # the side of the planes over that of the first encoder's coarsest level


@dataclass(frozen=True)
class TriPlaneNetSettings:
    """How TriPlaneNet's planes are rendered.

    Args:
        rendering: the side of the rendered features; 0 for the generator's (128)
        depths: how many times the generator's number of depths a ray has; the published inference doubles
            them
    """

    rendering: int = 0
    depths: int = 2

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        if self.rendering < 0 or self.depths < 1:
            raise InputError(f"{self}: a side of 0 or more, and depths of 1 or more")


@dataclass(frozen=True)
class Reconstruction:
    """The reconstruction of N portraits.

    Args:
        styles: (N, W, Z), for EG3D's synthesis
        planes: EG3D's planes (N, C, S, S) of the styles
        view: rendering of those planes at the portraits' cameras
        mirror: their rendering at the mirrored cameras
        identity: the final planes, for any camera
    """

    styles: Tensor
    planes: Tensor
    view: Views
    mirror: Views
    identity: Identity


class TriPlaneNet:
    """TriPlaneNet v2 (Bhattarai et al., WACV 2024) on EG3D."""

    Settings: ClassVar[type] = TriPlaneNetSettings
    name = "TriPlaneNet v2"
    licence = (
        "code MIT; no licence of the weights is stated, and they contain NVIDIA's FFHQ generator (research "
        "and evaluation only)"
    )

    def __init__(
        self, encoders: TriPlaneEncoders, generator: Generator, settings: TriPlaneNetSettings
    ) -> None:
        """`encoders` and `generator` fit each other and are on one device (`build_encoders`)."""
        self.encoders, self.generator, self.settings = encoders, generator, settings
        self.native_size = generator.architecture.size

    @classmethod
    def check(cls, folder: Path) -> None:
        """See `Baseline.check`."""
        check_folder(folder, KIND)

    @classmethod
    def open(cls, folder: Path, device: str = "cpu", settings: TriPlaneNetSettings | None = None) -> Self:
        """See `Baseline.open`."""
        Card.read(folder, KIND)
        generator = open_generator(folder, device)
        path = networks_file(folder)
        encoders = build_encoders(read_tensors(path), generator, str(path)).to(device)
        return cls(encoders, generator, settings or TriPlaneNetSettings())

    @torch.inference_mode()
    def views(self, request: Request) -> Images:
        """See `ViewSynthesizer.views`."""
        device = self.encoders.latent_avg.device
        portrait = halved(pixels_of(crop(request, self.native_size), device), self.side)
        labels = torch.from_numpy(request.portrait_cameras[:1]).to(device)
        made = self.reconstruct(portrait, labels)
        return view_images(self.generator, made.identity, request.cameras, self.how)

    def reconstruct(self, portrait: Tensor, labels: Tensor) -> Reconstruction:
        """The planes of portraits (N, 3, S, S) in [-1, 1], seen at EG3D labels (N, 25)."""
        styles = self.encoders.styles(portrait)
        first = self.generator.identity(styles)
        both = torch.stack([labels, mirrored(labels)], dim=1)
        view, mirror = self.generator.each_view(first, both, self.how)
        planes = first.planes.flatten(1, 2)
        better = self.encoders.triplanenet_encoder(self.residuals(portrait, view, mirror), planes)
        identity = Identity(better.unflatten(1, first.planes.shape[1:3]), first.style, None)
        return Reconstruction(styles, planes, view, mirror, identity)

    def residuals(self, portrait: Tensor, view: Views, mirror: Views) -> Tensor:
        """The second encoder's input (N, 9, S, S): the first reconstruction, and the residuals of it and of
        its mirrored view to the portraits (N, 3, S, S) and their mirror images."""
        front, back = (halved(seen.image[:, 0], self.side) for seen in (view, mirror))
        return torch.cat([front, portrait - front, portrait.flip(-1) - back], dim=1)

    @property
    def side(self) -> int:
        """The side of the portraits that the encoders take, which is that of the planes."""
        return max(self.generator.architecture.backbone)

    @property
    def how(self) -> Rendering:
        """The rendering settings of all views."""
        return rendering(self.generator, self.settings.rendering, self.settings.depths)


def mirrored(labels: Tensor) -> Tensor:
    """EG3D labels (N, 25) of the cameras that see the mirror image."""
    signs = torch.ones(labels.shape[1], device=labels.device, dtype=labels.dtype)
    signs[list(MIRRORED)] = -1
    return labels * signs


def build_encoders(tensors: Mapping[str, Tensor], generator: Generator, where: str) -> TriPlaneEncoders:
    """The encoders of these tensors, ready for inference, sharing their memory. Raises InputError, naming
    `where`, listing what is missing, unexpected or misshapen, and where they do not fit the generator."""
    widths = Widths.read({name: tuple(x.shape) for name, x in tensors.items()}, where)
    _check_sizes(widths, generator, where)
    with torch.device("meta"):
        encoders = TriPlaneEncoders(widths)
    load_networks(encoders, tensors, where)
    return encoders


def _check_sizes(widths: Widths, generator: Generator, where: str) -> None:
    check_styles(generator, len(widths.heads), widths.style, where)
    architecture = generator.architecture
    if widths.planes != architecture.plane_channels:
        raise InputError(
            f"{where}: it makes planes of {widths.planes} channels, the generator has "
            f"{architecture.plane_channels}"
        )
    if widths.body[-1] != widths.style:
        raise InputError(f"{where}: {widths.body[-1]} channels of its first encoder, not {widths.style}")
    coarse = int(math.log2(max(architecture.backbone) // COARSEST))
    fine = len(widths.heads) - COARSE - MIDDLE
    wanted = (coarse,) * COARSE + (coarse + 1,) * MIDDLE + (coarse + 2,) * fine
    if widths.heads != wanted:
        raise InputError(f"{where}: its style heads have {widths.heads} convolutions, not {wanted}")
