"""Pivotal tuning of renders of a toy generator whose identities differ like a trained one's."""

import numpy as np
import pytest
import torch

from generators.inversion.pivotal import Inversion, Tuning, noise_patterns, noise_structure
from portraits.cameras import label_from_angles
from tests.generators.toy_generators import toy_generator

QUICK = Tuning(style_steps=3, tune_steps=2, perceptual_weight=0.0)


def varied(kind):
    """A toy generator whose mapping weights have a trained generator's scale (1 / its learning-rate
    multiplier), so that latents give different people."""
    generator = toy_generator(kind)
    for layer in (generator.backbone.mapping.fc0, generator.backbone.mapping.fc1):
        layer.weight.data *= 100
    return generator


def cameras(*yaws):
    return np.stack([label_from_angles(yaw, 0.05) for yaw in yaws])


# the optimisation is the same for both kinds
@pytest.mark.parametrize("kind", ["eg3d", pytest.param("panohead", marks=pytest.mark.slow)])
def test_inversion_recovers_a_render_and_its_novel_views(kind):
    """The loss falls 50-fold, and the error of a view 40 degrees away is a tenth of the average person's."""
    generator = varied(kind)
    labels = torch.from_numpy(cameras(0.2, -0.5)).unsqueeze(0)
    z = torch.randn(1, 6, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        truth = generator.views(generator.identity(generator.styles(z, labels[0, :1])), labels).image[0]
    before = {name: x.clone() for name, x in generator.state_dict().items()}
    tuning = Tuning(60, 40, style_rate=0.05, tune_rate=0.002, perceptual_weight=0.0)
    inversion = Inversion(generator, tuning)
    found = inversion.fit(truth[0], labels[0, 0], quiet=True)
    start, style, tuned = found.distances.values()
    assert style < start / 5
    assert tuned < start / 50
    assert tuned < style
    average, _ = inversion.style_statistics()
    with torch.no_grad():
        of_average = generator.views(generator.identity(average.expand(-1, 6, -1)), labels).image[0, 1]
        elsewhere = found.generator.views(found.generator.identity(found.styles), labels).image[0, 1]
    error, usual = ((x - truth[1]).square().mean() for x in (elsewhere, of_average))
    assert error < usual / 10
    assert all(torch.equal(x, before[name]) for name, x in generator.state_dict().items())


def test_perceptual_distance_adds_to_the_loss():
    generator = varied("eg3d")
    target = torch.zeros(1, 3, 64, 64)
    image = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    plain = Inversion(generator, QUICK).loss(image, target)
    both = Inversion(generator, Tuning(1, 1)).loss(image, target)
    assert both > plain + 0.01


def test_each_channel_of_w_gets_the_published_projector_s_noise(monkeypatch):
    """At first 0.05 times w's root mean square distance from its mean, and none in the last quarter."""
    inversion = Inversion(varied("eg3d"), Tuning(4, 0, style_rate=1e-9, perceptual_weight=0.0))
    average, spread = inversion.style_statistics()
    styles, repeated = [], inversion._styles
    monkeypatch.setattr(inversion, "_styles", lambda w: styles.append(w.detach()) or repeated(w))
    inversion.fit(torch.zeros(3, 64, 64), torch.from_numpy(cameras(0.0)[0]), quiet=True)
    noises = torch.stack([style.flatten() - average.flatten() for style in styles])
    noises = noises[noises.norm(dim=1) > 1e-3 * spread]
    draw = torch.Generator().manual_seed(0)
    drawn = torch.cat([torch.randn(1, average.numel(), generator=draw) for _ in range(3)])
    # (1 - done / 0.75)² at 0, 1/4 and 1/2 of the steps
    shares = torch.tensor([[1.0], [4 / 9], [1 / 9]])
    torch.testing.assert_close(noises, 0.05 * spread * shares * drawn, rtol=1e-3, atol=1e-5)


def test_noise_patterns_stay_normalised():
    """White noise has little structure, a ramp has much; fitted noise patterns stay normalised."""
    white, ramp = torch.randn(32, 32), torch.linspace(-1.7, 1.7, 32).expand(32, 32)
    assert noise_structure([ramp]) > 100 * noise_structure([white])
    generator = varied("eg3d")
    target = torch.zeros(3, 64, 64)
    found = Inversion(generator, QUICK).fit(target, torch.from_numpy(cameras(0.0)[0]), quiet=True)
    for noise, own in zip(noise_patterns(found.generator), noise_patterns(generator), strict=True):
        assert noise.mean().abs() < 1e-5
        assert noise.square().mean() == pytest.approx(1, abs=1e-4)
        assert not torch.equal(noise, own)
