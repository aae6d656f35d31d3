"""The real generator classes at toy width with the recipe's weights: 16×16 renderings, 64×64 images."""

from torch import Tensor

from generators.gan.architecture import Architecture, Kind, Settings, SuperResolutionBlock
from generators.gan.folder import KINDS, build_generator
from generators.gan.generator import Generator
from tests.parity.recipe import gan_weights

FEATURES = 4
CHANNELS = {4: 8, 8: 8, 16: 6}
SETTINGS = {"coarse": 8, "fine": 8, "rendering": 16, "superresolution_side": 16}


def toy_settings(kind: Kind, **changes: object) -> Settings:
    """The published settings of a kind, at toy size."""
    return Settings(**{**Settings.of(kind).to_json(), **SETTINGS, **changes})


def toy_architecture(kind: Kind) -> Architecture:
    """A kind's architecture with few channels."""
    pano = kind == "panohead"
    return Architecture(
        latent=6,
        label=25,
        mapping=(8, 8),
        backbone=CHANNELS,
        plane_channels=3 * FEATURES * (3 if pano else 1),
        decoder=(FEATURES, 8, FEATURES),
        superresolution=(SuperResolutionBlock(FEATURES, 8, 32), SuperResolutionBlock(8, 4, 64)),
        raw_image=pano,
        background={4: 4, 8: 4} if pano else None,
        background_channels=FEATURES if pano else 0,
        shift=(3, 3) if pano else None,
    )


def toy_tensors(kind: Kind) -> dict[str, Tensor]:
    """The recipe's weights for `toy_architecture`, by published names."""
    module = KINDS[kind](toy_architecture(kind), toy_settings(kind))
    return gan_weights({name: tuple(x.shape) for name, x in module.state_dict().items()})


def toy_generator(kind: Kind, **changes: object) -> Generator:
    """A toy generator, with `changes` to its settings."""
    return build_generator(toy_tensors(kind), toy_settings(kind, **changes), kind)
