"""TriPlaneNet v2 against outputs of the public code, with the weights of `tests.parity.recipe`."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from baselines.archives import without_prefix
from baselines.layers import body, load_networks, outputs_of, stem
from baselines.rendering import halved
from baselines.triplanenet.encoders import PlaneEncoder, Widths
from baselines.triplanenet.system import (
    TriPlaneNet,
    TriPlaneNetSettings,
    build_encoders,
    mirrored,
)
from generators.gan.architecture import Settings
from generators.gan.folder import build_generator
from portraits.pixels import to_pixels
from tests.baselines.compare import assert_close
from tests.parity.recipe import baseline_weights, golden, key_list

EARLY = (2, 6)
UNITS = (*EARLY, 20, 21, 23)
STORED = 16  # side of the stored outputs


def portrait_of(theirs: dict[str, Tensor]) -> Tensor:
    return to_pixels(theirs["image"].numpy())[None].contiguous()


def units(encoder: str, outputs: list[Tensor]) -> dict[str, Tensor]:
    """The encoder's outputs after `UNITS`, subsampled as stored in the goldens."""
    named = zip(UNITS, outputs, strict=False)
    return {f"{encoder}_body_{unit}": reduced(x, 16) for unit, x in named}


def reduced(x: Tensor, channels: int) -> Tensor:
    stride = x.shape[-1] // STORED
    return x[:, ::channels, ::stride, ::stride]


@torch.no_grad()
def test_first_encoder_units_match_the_public_code():
    """The stem and the first groups of the first encoder; the whole network takes a minute."""
    theirs = golden("triplanenet")
    first = ("psp_encoder.input_layer.", *(f"psp_encoder.body.{unit}." for unit in range(EARLY[-1] + 1)))
    shapes = {name: shape for name, shape in key_list("triplanenet").items() if name.startswith(first)}
    weights = without_prefix(baseline_weights(shapes), "psp_encoder.")
    network = torch.nn.ModuleDict({"input_layer": stem(3, 64), "body": body((64, 128), (3, 4))})
    load_networks(network, weights, "recipe")
    features = network["input_layer"](portrait_of(theirs))
    assert_close(units("psp", outputs_of(network["body"], features, EARLY)), theirs)


def test_mirrored_camera_matches_the_public_code():
    theirs = golden("triplanenet")
    assert torch.equal(mirrored(theirs["camera"]), theirs["mirror_camera"])


@pytest.mark.slow
@torch.no_grad()
def test_whole_pipeline_matches_the_public_code():
    """Both encoders, the initial reconstruction and renderings of the final planes."""
    theirs = golden("triplanenet")
    weights = baseline_weights(key_list("triplanenet"))
    settings = replace(Settings.of("eg3d"), coarse=24, fine=24, rendering=64)
    generator = build_generator(without_prefix(weights, "decoder."), settings, "recipe")
    own = {name: x for name, x in weights.items() if not name.startswith("decoder.")}
    encoders = build_encoders(own, generator, "recipe")
    system = TriPlaneNet(encoders, generator, TriPlaneNetSettings(depths=1))
    portrait, camera = portrait_of(theirs), theirs["camera"]
    made = system.reconstruct(portrait, camera)
    cameras = torch.stack([camera, theirs["novel_camera"]], dim=1)
    seen = generator.views(made.identity, cameras, system.how)
    planes = made.identity.planes.flatten(1, 2)
    assert_close(
        {
            "codes": made.styles,
            "initial_planes_every_16th": made.planes[..., ::16, ::16],
            "initial_every_8th_pixel": made.view.image[:, 0, :, ::8, ::8],
            "initial_mirror_every_8th_pixel": made.mirror.image[:, 0, :, ::8, ::8],
            "initial_depth": made.view.depth[:, 0],
            "planes_every_16th": planes[..., ::16, ::16],
            "image_every_8th_pixel": seen.image[:, 0, :, ::8, ::8],
            "image_256_every_4th_pixel": halved(seen.image[:, 0], 256)[..., ::4, ::4],
            "novel_every_8th_pixel": seen.image[:, 1, :, ::8, ::8],
            "novel_depth": seen.depth[:, 1],
        },
        theirs,
    )
    second = encoders.triplanenet_encoder
    first, residuals = encoders.psp_encoder, system.residuals(portrait, made.view, made.mirror)
    assert_close(
        units("psp", outputs_of(first.body, first.input_layer(portrait), UNITS))
        | units("second", outputs_of(second.body, second.input_layer(residuals), UNITS))
        | levels(second, residuals)
        | {"planes_pixelshuffle_every_16th": other_variant(residuals, made.planes)[..., ::16, ::16]},
        theirs,
    )


def levels(second: PlaneEncoder, residuals: Tensor) -> dict[str, Tensor]:
    """The levels of the second encoder's decoder, subsampled as stored in the goldens."""
    return {f"second_up{n}": reduced(x, 16) for n, x in enumerate(second.levels(residuals), start=1)}


def other_variant(residuals: Tensor, planes: Tensor) -> Tensor:
    """The planes by the variant of the second encoder with pixel shuffle."""
    shapes = key_list("triplanenet_pixelshuffle")
    others = key_list("triplanenet") | shapes
    widths = Widths.read(others, "recipe")
    assert widths.pixel_shuffle
    with torch.device("meta"):
        encoder = PlaneEncoder(widths)
    load_networks(encoder, without_prefix(baseline_weights(shapes), "triplanenet_encoder."), "recipe")
    return encoder(residuals, planes)
