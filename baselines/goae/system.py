"""GOAE as a system: planes are computed once per portrait, then rendered at any number of cameras.

Shape letters: N portraits, S side of EG3D's images, s side of the encoder's portraits, W styles, Z numbers of
a style.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn

from baselines.archives import without_prefix
from baselines.base import Request
from baselines.folders import Card, check_folder, networks_file, open_generator
from baselines.goae.correction import CorrectionSize, FeatureCorrection, visibility_mask
from baselines.goae.encoder import EncoderSize, StyleEncoder
from baselines.layers import load_networks
from baselines.rendering import check_styles, crop, pixels_of, rendering, view_images
from core.errors import InputError
from core.lists import shortened
from core.schema import STRICT
from core.tensors import read_tensors
from generators.gan.generator import Generator, Identity, Rendering, Views
from portraits.pixels import Images, to_images

KIND = "goae"
CORRECTED = 32  # the resolution whose features are corrected
# Constants of Swin that files hold and that are recomputed here.
RECOMPUTED = (".attn.relative_coords_table", ".attn.relative_position_index", ".attn_mask")
DENSE = 0.4  # least side of the rendering, as a share of the planes': below, the visibility mask has gaps


@dataclass(frozen=True)
class GOAESettings:
    """How GOAE's planes are mixed and rendered.

    Args:
        rendering: the side of the rendered features; 0 for the generator's (128)
        blur: the standard deviation of the visibility mask's blur, in cells of the planes; the published code
            draws it from [1, 2] at every run
    """

    rendering: int = 0
    blur: float = 1.5

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        if self.rendering < 0 or self.blur <= 0:
            raise InputError(f"{self}: a side of 0 or more, and a blur above 0")


class Networks(nn.Module):
    """GOAE's own networks."""

    def __init__(self, encoder: StyleEncoder, correction: FeatureCorrection) -> None:
        super().__init__()
        self.encoder, self.afa = encoder, correction


@dataclass(frozen=True)
class Reconstruction:
    """The reconstruction of N portraits.

    Args:
        styles: (N, W, Z), for EG3D's synthesis
        features: EG3D's features (N, C, 32, 32) of the styles
        corrected: the features after the correction
        plain: planes of the uncorrected features
        better: planes of the corrected features
        plain_view: rendering of `plain` at the portraits' cameras
        view: rendering of `better` at the portraits' cameras, the reconstruction
        mask: visibility of the front plane from the cameras (N, 1, P, P), in [0, 1]
        identity: the planes mixed by the mask, for other cameras
    """

    styles: Tensor
    features: Tensor
    corrected: Tensor
    plain: Identity
    better: Identity
    plain_view: Views
    view: Views
    mask: Tensor
    identity: Identity


class GOAE:
    """GOAE (Yuan et al., ICCV 2023) on EG3D. Its reconstruction of the portrait is `Reconstruction.view`."""

    Settings: ClassVar[type] = GOAESettings
    name = "GOAE"
    licence = (
        "no licence is given for the code and the weights: ask the authors for permission; the generator is "
        "NVIDIA's (research and evaluation only)"
    )

    def __init__(self, networks: Networks, generator: Generator, settings: GOAESettings) -> None:
        """`networks` and `generator` fit each other and are on one device (`build_networks`). Raises
        InputError if the rendering is too small for the visibility mask."""
        self.networks, self.generator, self.settings = networks, generator, settings
        self.native_size = generator.architecture.size
        side = settings.rendering or generator.settings.rendering
        if side < DENSE * self._planes:
            raise InputError(
                f"goae: rendered at {side}x{side}, surface points are too few to mark what is seen of planes "
                f"of {self._planes}x{self._planes}: set the rendering's side to half of that or more"
            )

    @classmethod
    def check(cls, folder: Path) -> None:
        """See `Baseline.check`."""
        check_folder(folder, KIND)

    @classmethod
    def open(cls, folder: Path, device: str = "cpu", settings: GOAESettings | None = None) -> Self:
        """See `Baseline.open`."""
        Card.read(folder, KIND)
        generator = open_generator(folder, device)
        path = networks_file(folder)
        networks = build_networks(read_tensors(path), generator, str(path)).to(device)
        return cls(networks, generator, settings or GOAESettings())

    @torch.inference_mode()
    def views(self, request: Request) -> Images:
        """See `ViewSynthesizer.views`. A view at the portrait's own camera is the reconstruction, whose
        planes are not mixed."""
        device = self.generator.backbone.mapping.w_avg.device
        large = crop(request, self.native_size)
        side = self.networks.encoder.size.side
        small = large.resize((side, side), Image.Resampling.BICUBIC)
        labels = torch.from_numpy(request.portrait_cameras[:1]).to(device)
        made = self.reconstruct(pixels_of(small, device), pixels_of(large, device), labels)
        images = view_images(self.generator, made.identity, request.cameras, self.how)
        own = (request.cameras == request.portrait_cameras[0]).all(axis=1)
        images[own] = to_images(made.view.image[0, 0])
        return images

    def reconstruct(self, small: Tensor, large: Tensor, labels: Tensor) -> Reconstruction:
        """The planes of portraits in [-1, 1], in the encoder's size (N, 3, s, s) and the generator's
        (N, 3, S, S), seen at EG3D labels (N, 25)."""
        styles = self.networks.encoder(small) + self.generator.backbone.mapping.w_avg
        synthesis = self.generator.backbone.synthesis
        early = [resolution for resolution in synthesis.resolutions if resolution <= CORRECTED]
        features, skip = synthesis.blocks(styles, resolutions=early)
        plain = self._identity(styles, features, skip)
        plain_view = self._view(plain, labels)
        corrected = self.networks.afa(features, plain_view.image[:, 0] - large)
        better = self._identity(styles, corrected, skip)
        view = self._view(better, labels)
        mask = visibility_mask(view.depth[:, 0], labels, self._planes, self.settings.blur)
        front = mask * better.planes[:, 0] + (1 - mask) * plain.planes[:, 0]
        mixed = torch.cat([front.unsqueeze(1), better.planes[:, 1:]], dim=1)
        identity = Identity(mixed, better.style, None)
        return Reconstruction(styles, features, corrected, plain, better, plain_view, view, mask, identity)

    def _identity(self, styles: Tensor, features: Tensor, skip: Tensor) -> Identity:
        """The people of features and the image so far at the corrected resolution."""
        synthesis = self.generator.backbone.synthesis
        late = [resolution for resolution in synthesis.resolutions if resolution > CORRECTED]
        flat = synthesis.blocks(styles, features, skip, late)[1]
        return Identity(flat.unflatten(1, (3, -1)), styles[:, -1], None)

    def _view(self, identity: Identity, labels: Tensor) -> Views:
        return self.generator.views(identity, labels.unsqueeze(1), self.how)

    @property
    def _planes(self) -> int:
        return max(self.generator.architecture.backbone)

    @property
    def how(self) -> Rendering:
        """The rendering settings of all views."""
        return rendering(self.generator, self.settings.rendering)


def build_networks(tensors: Mapping[str, Tensor], generator: Generator, where: str) -> Networks:
    """The networks of these tensors (`encoder.…`, `afa.…`), ready for inference, sharing their memory. Raises
    InputError, naming `where`, listing what is missing, unexpected or misshapen, and where they do not fit
    the generator."""
    strange = [name for name in tensors if not name.startswith(("encoder.", "afa."))]
    if strange:
        raise InputError(f"{where}: unexpected {shortened(sorted(strange))}")
    encoder = build_encoder(without_prefix(tensors, "encoder."), where)
    check_styles(generator, encoder.size.count, encoder.size.style, where)
    correction = build_correction(without_prefix(tensors, "afa."), where)
    channels = generator.architecture.backbone.get(CORRECTED)
    if channels != correction.size.features or max(generator.architecture.backbone) == CORRECTED:
        raise InputError(
            f"{where}: it corrects {correction.size.features} features at {CORRECTED}x{CORRECTED}, the "
            f"generator has {channels or 'none'} there"
        )
    return Networks(encoder, correction)


def build_encoder(tensors: Mapping[str, Tensor], where: str) -> StyleEncoder:
    """The encoder of these tensors. Raises InputError."""
    size = EncoderSize.read({name: tuple(x.shape) for name, x in tensors.items()}, where)
    with torch.device("meta"):
        encoder = StyleEncoder(size)
    kept = {name: x for name, x in tensors.items() if not name.endswith(RECOMPUTED)}
    load_networks(encoder, kept, where)
    return encoder


def build_correction(tensors: Mapping[str, Tensor], where: str) -> FeatureCorrection:
    """The feature correction of these tensors. Raises InputError."""
    size = CorrectionSize.read({name: tuple(x.shape) for name, x in tensors.items()}, where)
    with torch.device("meta"):
        correction = FeatureCorrection(size)
    load_networks(correction, tensors, where)
    return correction
