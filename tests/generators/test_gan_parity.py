"""EG3D and PanoHead against outputs of the public generators, with the weights of `tests.parity.recipe`.

Float32 sums in another order differ by 1e-6 to 1e-5 of the norm. The depth of a nearly empty ray (total
opacity 3e-5, a few roundings of 1) changes by up to 1.2e-4 of the largest depth with a single rounding: in
float64 with opacities rounded to float32, it differs from the golden depth by 2.5e-4."""

import pytest
import torch

from generators.gan.architecture import Settings, kind_of
from generators.gan.folder import build_generator
from generators.gan.generator import Rendering
from generators.volume import Rays, RaySampling, rays, render
from tests.parity.recipe import gan_weights, golden, key_list

SAMPLING = RaySampling(24, 24, chunk=4096)
SIDE = 64
TOLERANCE = 1e-5
SOME = slice(SIDE * 30, SIDE * 34)  # rays through the centre of the head


def error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def largest(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def generator_of(which):
    shapes = key_list(which)
    assert kind_of(shapes) == which
    return build_generator(gan_weights(shapes), Settings.of(which), which)


@pytest.mark.parametrize("which", ["eg3d", pytest.param("panohead", marks=pytest.mark.slow)])
@torch.no_grad()
def test_some_rays_match_the_public_code(which):
    generator, theirs = generator_of(which), golden(which)
    ws = generator.styles(theirs["z"], theirs["conditioning_camera"], 0.7, 14)
    assert error(ws[:, :1], theirs["ws"]) < 1e-6
    identity = generator.identity(ws[:1])
    every = rays(theirs["cameras"][:1], SIDE)
    some = Rays(every.origins[:, SOME], every.directions[:, SOME])
    settings = generator.settings
    seen = render(
        lambda points, _: generator.field(identity.planes, points),
        some,
        settings.near,
        settings.far,
        SAMPLING,
    )
    assert error(seen.depth, theirs["image_depth"][:1].flatten(1)[:, SOME]) < TOLERANCE
    if which == "eg3d":
        raw = (seen.features[..., :3] * 2 - 1).transpose(1, 2)
        assert error(raw, theirs["image_raw"][:1].flatten(2)[..., SOME]) < TOLERANCE
    else:
        mask = seen.alpha * 1.002 - 0.001
        assert error(mask, theirs["image_mask"][:1].flatten(1)[:, SOME]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("which", ["eg3d", "panohead"])
@torch.no_grad()
def test_images_match_the_public_code(which):
    generator, theirs = generator_of(which), golden(which)
    ws = generator.styles(theirs["z"], theirs["conditioning_camera"], 0.7, 14)
    views = generator.views(generator.identity(ws), theirs["cameras"].unsqueeze(1), Rendering(SIDE, SAMPLING))
    pairs = [
        (views.raw, theirs["image_raw"]),
        (views.depth, theirs["image_depth"]),
        (views.image[..., ::4, ::4], theirs["image_every_4th_pixel"]),
    ]
    if which == "panohead":
        pairs.append((views.mask, theirs["image_mask"]))
    for ours, golden_image in pairs:
        assert error(ours[:, 0], golden_image) < TOLERANCE
        assert largest(ours[:, 0], golden_image) < 2e-4
        off = (ours[:, 0] - golden_image).abs() > 1e-4 * golden_image.abs().max()
        assert off.sum() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("which", ["eg3d", "panohead"])
@torch.no_grad()
def test_bfloat16_is_close_to_the_public_code(which):
    """Backbone and super-resolution in bfloat16, rays in float32, at full width."""
    generator, theirs = generator_of(which), golden(which)
    generator.tune(torch.bfloat16)
    ws = generator.styles(theirs["z"][:1], theirs["conditioning_camera"][:1], 0.7, 14)
    views = generator.views(
        generator.identity(ws), theirs["cameras"][:1].unsqueeze(1), Rendering(SIDE, SAMPLING)
    )
    assert error(views.image[:, 0, :, ::4, ::4], theirs["image_every_4th_pixel"][:1]) < 0.05
    assert error(views.depth[:, 0], theirs["image_depth"][:1]) < 0.01
