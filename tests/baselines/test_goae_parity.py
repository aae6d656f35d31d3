"""GOAE against outputs of the public code, with the weights of `tests.parity.recipe`.

The golden's blur has sigma 1.5, and its density and colour decoder has 0.3 of the recipe's contrast.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from baselines.archives import without_prefix
from baselines.goae.swin import PatchEmbedding, Stage
from baselines.goae.system import GOAE, GOAESettings, build_networks
from baselines.layers import load_networks
from baselines.rendering import halved
from generators.gan.architecture import Settings
from generators.gan.folder import build_generator
from portraits.pixels import to_pixels
from tests.baselines.compare import TOLERANCE, assert_close
from tests.parity.recipe import baseline_weights, golden, key_list

CONTRAST = 0.3
MASK_PIXELS = 8  # that may cross the threshold by rounding


def portrait_of(theirs: dict[str, Tensor]) -> Tensor:
    return to_pixels(theirs["image"].numpy())[None].contiguous()


def tap(tokens: Tensor, stride: int = 1) -> Tensor:
    """Every `stride`th token and every fourth channel of tokens (1, T, C), as stored in the goldens."""
    return tokens[:, ::stride, ::4]


@torch.no_grad()
def test_first_swin_stage_matches_the_public_code():
    """Swin's patch embedding and first stage with shifted windows; the whole network takes a minute."""
    theirs, root = golden("goae"), "encoder.swin_model."
    first = (root + "patch_embed.", root + "layers.0.")
    shapes = {name: shape for name, shape in key_list("goae").items() if name.startswith(first)}
    weights = {
        name.replace("layers.0", "stage"): x
        for name, x in without_prefix(baseline_weights(shapes), root).items()
    }
    network = torch.nn.ModuleDict({"patch_embed": PatchEmbedding(128), "stage": Stage(128, 2, 4, 12, True)})
    load_networks(network, weights, "recipe")
    fine = network["patch_embed"](portrait_of(theirs))
    mid = network["stage"](fine.unflatten(1, (64, 64))).flatten(1, 2)
    assert_close({"swin_fine_every_64th": tap(fine, 64), "swin_mid_every_16th": tap(mid, 16)}, theirs)


@pytest.mark.slow
@torch.no_grad()
def test_whole_pipeline_matches_the_public_code():
    """Encoder, feature correction, mask, mixed planes and renderings."""
    theirs = golden("goae")
    weights = baseline_weights(key_list("goae"), CONTRAST)
    settings = replace(Settings.of("eg3d"), coarse=24, fine=24, rendering=128)
    generator = build_generator(without_prefix(weights, "decoder."), settings, "recipe")
    own = {name: x for name, x in weights.items() if not name.startswith("decoder.")}
    networks = build_networks(own, generator, "recipe")
    system = GOAE(networks, generator, GOAESettings())
    small = portrait_of(theirs)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    check_encoder(networks, small, theirs)
    made = system.reconstruct(small, large, theirs["camera"])
    gamma, beta = networks.afa.modulation(made.features, made.plain_view.image[:, 0] - large)
    seen = generator.views(made.identity, theirs["novel_camera"].unsqueeze(1), system.how)
    coarse = {"features_32": made.features, "afa_32": made.corrected, "afa_gamma": gamma, "afa_beta": beta}
    planes = {"w_planes": made.plain, "planes": made.better, "mixed_planes": made.identity}
    skip = generator.backbone.synthesis.blocks(made.styles, resolutions=(4, 8, 16, 32))[1]
    images = {"w_image": made.plain_view, "image": made.view, "novel": seen}
    assert_close(
        {name: x[:, ::8, ::2, ::2] for name, x in coarse.items()}
        | {"skip_32": skip[:, ::4, ::2, ::2]}
        | {"image_256_every_4th_pixel": halved(made.view.image[:, 0], 256)[..., ::4, ::4]}
        | {f"{name}_every_16th": person.planes[..., ::16, ::16] for name, person in planes.items()}
        | {f"{name}_every_8th_pixel": view.image[:, 0, :, ::8, ::8] for name, view in images.items()}
        | {"image_depth": made.view.depth[:, 0], "novel_depth_every_2nd": seen.depth[:, 0, :, ::2, ::2]},
        theirs,
    )
    moved = (made.mask[..., ::2, ::2] - theirs["mask_every_2nd"]).abs() > TOLERANCE
    assert moved.sum() <= MASK_PIXELS


def check_encoder(networks: torch.nn.Module, portrait: Tensor, theirs: dict[str, Tensor]) -> None:
    encoder = networks.encoder
    taps = encoder.swin_model(portrait)
    assert_close(
        {
            "swin_base": tap(taps.base).mT,
            "swin_query": tap(taps.query).mT,
            "swin_coarse_every_4th": tap(taps.coarse, 4),
            "swin_mid_every_16th": tap(taps.mid, 16),
            "swin_fine_every_64th": tap(taps.fine, 64),
            "encoder_base": encoder.base(taps.base),
            "encoder_ws": encoder(portrait),
        },
        theirs,
    )
