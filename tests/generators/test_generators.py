"""Properties of both kinds of generators, at toy width."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.errors import InputError
from generators.gan.architecture import Architecture, Settings, kind_of
from generators.gan.folder import build_generator, load_generator, read_settings, save_generator
from generators.gan.generator import Identity, Rendering
from generators.gan.layers import StyledConvolution, binomial_filter, upsample
from generators.volume import RaySampling
from portraits.cameras import label_from_angles
from tests.generators.toy_generators import toy_architecture, toy_generator, toy_settings, toy_tensors

KINDS = ["eg3d", "panohead"]


def cameras(*yaws):
    return torch.from_numpy(np.stack([label_from_angles(yaw, 0.1) for yaw in yaws])).unsqueeze(0)


def people(generator, count=1, seed=0):
    z = torch.randn(count, generator.architecture.latent, generator=torch.Generator().manual_seed(seed))
    return generator.identity(generator.styles(z, cameras(0.0)[0].expand(count, -1), 0.7))


def zero_inserted(x):
    """A zero after every pixel: (N, C, 2H, 2W)."""
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, 2 * h, 2 * w)
    out[:, :, ::2, ::2] = x
    return out


def test_upsample_is_zero_insertion_and_filtering():
    x = torch.randn(2, 3, 5, 5)
    taps = 4 * binomial_filter().expand(3, 1, 4, 4)
    slow = F.conv2d(F.pad(zero_inserted(x), (2, 1, 2, 1)), taps, groups=3)
    torch.testing.assert_close(upsample(x, binomial_filter()), slow)


@pytest.mark.parametrize("up", [False, True])
def test_styled_convolution_matches_a_plain_implementation(up):
    """Each image has its own demodulated weight; upsampling is a true convolution after zero insertion."""
    torch.manual_seed(0)
    layer = StyledConvolution(3, 4, style=5, resolution=8, up=up)
    layer.noise_strength.data.fill_(0.3)
    x, w = torch.randn(2, 3, 4 if up else 8, 4 if up else 8), torch.randn(2, 5)
    slow = []
    for image, styles in zip(x, layer.affine(w), strict=True):
        weight = layer.weight * styles.view(1, 3, 1, 1)
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            spread = F.conv2d(F.pad(zero_inserted(image[None]), (2, 1, 2, 1)), weight.flip(2, 3))
            taps = 4 * binomial_filter().expand(4, 1, 4, 4)
            y = F.conv2d(F.pad(spread, (1, 1, 1, 1)), taps, groups=4)
        else:
            y = F.conv2d(image[None], weight, padding=1)
        y = y + 0.3 * layer.noise_const + layer.bias.view(1, -1, 1, 1)
        slow.append(F.leaky_relu(y, 0.2) * 2**0.5)
    torch.testing.assert_close(layer(x, w, noise=True), torch.cat(slow), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_architecture_is_inferred_and_views_have_their_shapes(kind):
    generator = toy_generator(kind)
    shapes = {name: tuple(x.shape) for name, x in generator.state_dict().items()}
    assert Architecture.read(shapes, kind) == toy_architecture(kind)
    assert kind_of(shapes) == kind
    views = generator.views(people(generator, 2), cameras(-0.5, 0.0, 0.5).expand(2, -1, -1), Rendering(12))
    assert views.image.shape == (2, 3, 3, 64, 64)
    assert views.raw.shape == (2, 3, 3, 12, 12)
    assert views.depth.shape == views.mask.shape == (2, 3, 1, 12, 12)
    assert (views.depth[0, 0] - views.depth[0, 2]).abs().mean() > 1e-3
    assert all(torch.isfinite(x).all() for x in (views.image, views.raw, views.depth, views.mask))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 3])
@torch.no_grad()
def test_views_do_not_depend_on_batch_or_chunks(kind, seed):
    generator = toy_generator(kind)
    both = people(generator, 2)
    labels = cameras(-0.6, 0.3).expand(2, -1, -1)
    together = generator.views(both, labels, Rendering(seed=seed))
    second = Identity(
        both.planes[1:], both.style[1:], None if both.background is None else both.background[1:]
    )
    small = RaySampling(8, 8, chunk=37)
    if seed is None:
        alone = generator.views(second, labels[1:, 1:], Rendering(sampling=small))
        torch.testing.assert_close(alone.image[0, 0], together.image[1, 1], atol=1e-5, rtol=1e-5)
    chunked = generator.views(both, labels[:, 1:], Rendering(sampling=small, seed=seed))
    torch.testing.assert_close(chunked.image[:, 0], together.image[:, 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chunked.depth[:, 0], together.depth[:, 1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_seeded_rendering_is_jittered():
    generator = toy_generator("eg3d")
    one = people(generator)
    fixed, again = (generator.views(one, cameras(0.2)).raw for _ in range(2))
    seeded, same = (generator.views(one, cameras(0.2), Rendering(seed=1)).raw for _ in range(2))
    assert torch.equal(fixed, again)
    assert torch.equal(seeded, same)
    assert not torch.equal(fixed, seeded)
    assert not torch.equal(seeded, generator.views(one, cameras(0.2), Rendering(seed=2)).raw)


@torch.no_grad()
def test_truncation_interpolates_to_the_average():
    generator = toy_generator("panohead")
    z = torch.randn(3, 6)
    label = cameras(0.0)[0].expand(3, -1)
    average = generator.styles(z, label, truncation=0.0)
    torch.testing.assert_close(average, generator.backbone.mapping.w_avg.expand_as(average))
    partly = generator.styles(z, label, truncation=0.5, cutoff=2)
    torch.testing.assert_close(partly[:, 2:], generator.styles(z, label)[:, 2:])
    assert not torch.equal(partly[:, :2], generator.styles(z, label)[:, :2])


@torch.no_grad()
def test_panohead_density_is_cropped():
    generator = toy_generator("panohead")
    planes = people(generator).planes
    points = torch.tensor([[0.41, 0.0, 0.0], [0.0, 0.0, -0.41], [0.0, 0.49, 0.0], [0.39, -0.6, 0.39]])
    raw = generator.field(planes, points.view(1, 4, 1, 3))[1].flatten()
    assert (raw[:2] == -1000).all()
    assert (raw[2:] > -1000).all()


def test_planes_are_sampled_along_their_axes():
    """Planes hold their coordinate along the width or height, so that samples show the plane's axes."""
    points = torch.tensor([[0.1, 0.2, 0.4]]).view(1, 1, 1, 3)
    ramp = (torch.arange(64) + 0.5) / 32 - 1
    for kind, widths, heights in (("eg3d", (0, 0, 2), (1, 2, 0)), ("panohead", (0, 0, 1), (1, 2, 2))):
        generator = toy_generator(kind)
        channels = 4 * generator.architecture.depth
        across = ramp.view(1, 1, 1, 1, 64).expand(1, 3, channels, 64, 64)
        for planes, axes in ((across, widths), (across.transpose(-1, -2), heights)):
            for plane, axis in enumerate(axes):
                one = torch.zeros(1, 3, channels, 64, 64)
                one[:, plane] = planes[:, plane]
                found = 3 * generator.look_up(one, points)[0, 0, 0, 0]
                assert found.item() == pytest.approx(points[0, 0, 0, axis].item(), abs=1e-5)


@torch.no_grad()
def test_panoheads_learned_shift_changes_only_the_translation():
    generator = toy_generator("panohead")
    z, labels = torch.randn(2, 6), cameras(0.0, 0.4)[0]
    moved = generator.shifted(labels, z, labels) - labels
    changed = moved.abs().amax(0) > 0
    assert changed.nonzero().flatten().tolist() == [3, 7, 11]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bfloat16_is_close_to_float32(kind):
    generator = toy_generator(kind)
    one = people(generator)
    exact = generator.views(one, cameras(0.1)).image
    generator.tune(torch.bfloat16)
    rough = generator.views(people(generator), cameras(0.1)).image
    assert rough.dtype == torch.float32
    assert 1e-5 < (rough - exact).norm() / exact.norm() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_compiled_matches_eager(kind):
    generator = toy_generator(kind)
    one, both = people(generator), people(generator, 2)
    eager = generator.views(one, cameras(-0.3, 0.1))
    names = set(generator.state_dict())
    tuned = copy.deepcopy(generator).tune(compile=True)
    assert tuned.backbone.synthesis._compiled_call_impl is not None
    compiled = tuned.views(people(tuned), cameras(-0.3, 0.1))
    for name in ("image", "raw", "depth", "mask"):
        ours, theirs = getattr(compiled, name), getattr(eager, name)
        assert (ours - theirs).norm() / theirs.norm() < 1e-5
    pair = tuned.views(both, cameras(0.1).expand(2, -1, -1)).image[:1]
    assert (pair - eager.image[:, 1:]).norm() / pair.norm() < 1e-5
    assert set(tuned.state_dict()) == names


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_chunks_keep_gradients(kind):
    """Gradients equal those of rendering the whole image at once."""
    generator = toy_generator(kind).requires_grad_(True)
    gradients = []
    for sampling in (RaySampling(8, 8), RaySampling(8, 8, chunk=37, recompute=True)):
        generator.zero_grad()
        view = generator.views(people(generator), cameras(0.2), Rendering(sampling=sampling))
        view.image.square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in generator.named_parameters() if p.grad is not None})
    whole, chunked = gradients
    assert whole.keys() == chunked.keys()
    assert "decoder.net.0.weight" in whole
    for name, gradient in whole.items():
        torch.testing.assert_close(chunked[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [9, 16, 24])
@torch.no_grad()
def test_rendering_resolution_keeps_pixel_values(kind, side):
    """At three times the resolution every third pixel has the same ray; the output image keeps its size."""
    generator = toy_generator(kind)
    one = dataclasses.replace(people(generator), background=None)
    rough, fine = (generator.views(one, cameras(0.3), Rendering(s)) for s in (side, 3 * side))
    torch.testing.assert_close(rough.depth, fine.depth[..., 1::3, 1::3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rough.mask, fine.mask[..., 1::3, 1::3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rough.raw, fine.raw[..., 1::3, 1::3], rtol=1e-4, atol=1e-4)
    assert rough.image.shape == fine.image.shape == (1, 1, 3, 64, 64)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_more_ray_samples_approach_the_integral(kind):
    generator = toy_generator(kind)
    one = people(generator)

    def seen(coarse, fine):
        return generator.views(one, cameras(0.3), Rendering(sampling=RaySampling(coarse, fine))).raw

    exact = seen(512, 0)
    few, more, only_coarse = ((seen(*counts) - exact).norm() for counts in ((6, 6), (48, 48), (96, 0)))
    assert more < few / 3
    assert only_coarse < few / 3


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_generator_folder_round_trip(kind, tmp_path):
    generator = toy_generator(kind, clamps={"superresolution.block0": 256.0})
    save_generator(generator, tmp_path / "gan", "toy.pkl")
    again = load_generator(tmp_path / "gan")
    assert again.settings == generator.settings == read_settings(tmp_path / "gan")
    assert again.superresolution.block0.conv0.clamp == 256
    one = people(generator)
    assert torch.equal(generator.views(one, cameras(0.3)).image, again.views(one, cameras(0.3)).image)


@torch.no_grad()
def test_depth_range_follows_the_camera_with_follow():
    """A camera at twice the distance and twice the focal length, with and without `follow`."""
    generator = toy_generator("eg3d")
    one = people(generator)
    near, far = (torch.from_numpy(label_from_angles(0.2, 0.1, radius=radius)) for radius in (2.7, 5.4))
    far[[16, 20]] *= 2
    still, moved = (
        generator.views(one, far.view(1, 1, 25), Rendering(follow=follow)).depth for follow in (False, True)
    )
    assert still.max() <= 3.31
    assert moved.min() > 4.9
    assert generator.views(one, near.view(1, 1, 25), Rendering(follow=True)).depth.max() <= 3.31


def test_clamps_limit_activations():
    generator = toy_generator("eg3d", clamps={"backbone.synthesis.b8": 0.05})
    z = torch.randn(1, 6)
    generator.backbone.synthesis.b8.conv1.register_forward_hook(
        lambda _m, _i, out: seen.append(out.abs().max().item())
    )
    seen: list[float] = []
    generator.identity(generator.styles(z, cameras(0.0)[0]))
    assert seen[0] == pytest.approx(0.05)


def test_mismatched_tensors_are_named(tmp_path):
    tensors = toy_tensors("eg3d")
    lacking = {name: x for name, x in tensors.items() if name != "backbone.synthesis.b8.conv1.bias"}
    with pytest.raises(InputError, match=r"missing backbone\.synthesis\.b8\.conv1\.bias"):
        build_generator(lacking, toy_settings("eg3d"), "toy")
    with pytest.raises(InputError, match=r"unexpected stranger"):
        build_generator({**tensors, "stranger": torch.zeros(1)}, toy_settings("eg3d"), "toy")
    with pytest.raises(InputError, match="neither EG3D nor PanoHead"):
        build_generator({"a": torch.zeros(1)}, toy_settings("eg3d"), "toy")
    with pytest.raises(InputError, match="not a generator folder"):
        load_generator(tmp_path)
    for value, message in (
        (float("nan"), "NaN or infinite values in decoder"),
        (0, "are not floating point"),
    ):
        bad = torch.full_like(tensors["decoder.net.0.bias"], value)
        bad = bad if value else bad.int()
        with pytest.raises(InputError, match=message):
            build_generator({**tensors, "decoder.net.0.bias": bad}, toy_settings("eg3d"), "toy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": 1}, "card: colour: Unexpected keyword argument"),
        ({"near": None}, "card: near: Input should be a valid number"),
        ({"near": 4.0}, "card: rendering settings out of range: near 4.0"),
        ({"coarse": 10**9}, "card: rendering settings out of range: coarse 1000000000"),
        ({"fine": -1}, "card: rendering settings out of range: fine -1"),
        ({"rendering": 10**9}, "card: rendering settings out of range: rendering 1000000000"),
        ({"radius": 1e308}, "card: rendering settings out of range: radius"),
        ({"box": float("inf")}, "card: box: Input should be a finite number"),
        ({"pivot": [0, 1]}, "card: pivot"),
        ({"clamps": {"torgb": "256"}}, "card: clamps.torgb: Input should be a valid number"),
        ({"kind": "stylegan"}, "card: kind: Input should be 'eg3d' or 'panohead'"),
    ],
)
def test_invalid_settings_are_input_errors(values, message):
    settings = toy_settings("eg3d").to_json()
    assert Settings.from_json(settings, "card") == toy_settings("eg3d")
    with pytest.raises(InputError, match=message):
        Settings.from_json({**settings, **values}, "card")
    with pytest.raises(InputError, match="card: rendering settings without near"):
        Settings.from_json({name: value for name, value in settings.items() if name != "near"}, "card")


@pytest.mark.parametrize(
    ("tensor", "shape", "message"),
    [
        ("backbone.mapping.fc0.weight", (8, 7), "latents of -1 and cameras of 25 numbers"),
        ("backbone.mapping.embed.weight", (8, 7), "cameras of 7 numbers"),
        ("decoder.net.0.weight", (8,), "misshapen tensors"),
        ("decoder.net.0.weight", (8, 0), "misshapen tensors"),
        ("superresolution.block0.conv1.noise_const", (), "misshapen tensors"),
        ("backbone.synthesis.b99999999999.conv1.weight", (8, 8, 3, 3), "misshapen tensors"),
        ("backbone.synthesis.b12.conv1.weight", (8, 8, 3, 3), "has the resolutions"),
    ],
)
def test_invalid_shapes_are_refused(tensor, shape, message):
    shapes = {name: tuple(x.shape) for name, x in toy_tensors("eg3d").items()}
    with pytest.raises(InputError, match=message):
        Architecture.read({**shapes, tensor: shape}, "toy")
