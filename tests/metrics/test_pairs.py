"""PSNR, SSIM, LPIPS and DISTS: ideal values, ordering, and agreement with other packages."""

import lpips
import numpy as np
import piq
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchvision.models import alexnet, vgg16

from core.errors import InputError
from metrics import DISTS, LPIPS, PSNR, SSIM
from tests.metrics.conftest import distorted

METRICS = {"PSNR": PSNR, "SSIM": SSIM, "LPIPS": LPIPS, "DISTS": DISTS}
IDEAL = {"PSNR": float("inf"), "SSIM": 1.0, "LPIPS": 0.0, "DISTS": 0.0}
AMOUNTS = {"blur": (0.5, 1.0, 2.0, 4.0), "noise": (0.05, 0.1, 0.2, 0.4), "shift": (1, 2, 4, 8)}


@pytest.fixture(scope="module", params=METRICS)
def metric(request):
    return METRICS[request.param]()


def test_equal_images_give_the_ideal_value(metric, photo):
    metric.reset()
    metric.update(photo, photo)
    assert float(metric.compute()) == pytest.approx(IDEAL[metric.symbol], abs=1e-6)


@pytest.mark.parametrize("how", AMOUNTS)
def test_more_distortion_is_worse(metric, photo, how):
    images = torch.cat([distorted(photo, how, amount) for amount in AMOUNTS[how]])
    scores = metric.scores(images, photo.expand_as(images))[:, 0]
    better = scores[:-1] > scores[1:] if metric.higher_is_better else scores[:-1] < scores[1:]
    assert better.all(), scores


def test_blending_in_another_person_is_worse(metric, people):
    truth, other = people.views[:2, 0]
    images = torch.stack([torch.lerp(truth, other, share) for share in (0.1, 0.3, 0.6, 1.0)])
    scores = metric.scores(images, truth.expand_as(images))[:, 0]
    better = scores[:-1] > scores[1:] if metric.higher_is_better else scores[:-1] < scores[1:]
    assert better.all(), scores


def test_mean_is_over_images_and_nan_scores_are_counted():
    metric = PSNR()
    metric.update(torch.zeros(2, 3, 16, 16), torch.tensor([0.2, 0.4]).view(2, 1, 1, 1).expand(2, 3, 16, 16))
    both = float(metric.compute())
    assert both == pytest.approx(-10 * np.log10([0.01, 0.04]).mean(), abs=1e-4)
    metric.update(torch.zeros(1), torch.zeros(1), scores=torch.full((1, 1), torch.nan))
    assert float(metric.compute()) == both
    assert int(metric.failed) == 1


def test_psnr_and_ssim_match_scikit_image_and_piq(photo):
    noisy = distorted(photo, "noise", 0.2)
    pair = [image[0].add(1).div(2).permute(1, 2, 0).numpy() for image in (noisy, photo)]
    assert float(PSNR().scores(noisy, photo)) == pytest.approx(peak_signal_noise_ratio(*pair, data_range=1.0))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    other = structural_similarity(*pair, channel_axis=2, data_range=1.0, **settings)
    assert float(SSIM().scores(noisy, photo)) == pytest.approx(other, abs=1e-5)
    unit = [image.add(1).div(2) for image in (noisy, photo)]
    other = float(piq.ssim(*unit, downsample=False))
    assert float(SSIM().scores(noisy, photo)) == pytest.approx(other, abs=1e-5)


def test_lpips_alexnet_matches_lpips_package(publish, photo):
    network = alexnet()
    publish("alexnet", network)
    other = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    features = [x for name, x in network.features.state_dict().items()]
    slices = [x for name, x in other.net.state_dict().items()]
    for mine, theirs in zip(features, slices, strict=True):
        theirs.copy_(mine)
    noisy = distorted(photo, "noise", 0.2)
    metric = LPIPS()
    assert metric.label == "LPIPS"
    assert float(metric.scores(noisy, photo)) == pytest.approx(float(other(noisy, photo)), rel=1e-4)
    assert float(metric.scores(noisy, photo)) > 0


@pytest.mark.slow
def test_vgg16_lpips_and_dists_match_lpips_and_piq(publish, photo, monkeypatch):
    network = vgg16()
    publish("vgg16", network)
    noisy = distorted(photo, "noise", 0.2)
    other = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    slices = [x for name, x in other.net.state_dict().items()]
    for mine, theirs in zip(network.features.state_dict().values(), slices, strict=True):
        theirs.copy_(mine)
    metric = LPIPS("vgg16")
    assert metric.label == "LPIPS[vgg16]"
    assert float(metric.scores(noisy, photo)) == pytest.approx(float(other(noisy, photo)), rel=1e-4)

    dists = DISTS()
    assert dists.label == "DISTS"
    heads = {"alpha": dists.network.alpha.data, "beta": dists.network.beta.data}
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: heads)
    unit = [image.add(1).div(2) for image in (noisy, photo)]
    assert float(dists.scores(noisy, photo)) == pytest.approx(float(piq.DISTS()(*unit)), rel=1e-3)


def test_labels_name_replacement_weights():
    assert LPIPS("efficientnet-lite0").label == "LPIPS[efficientnet-lite0]"
    assert DISTS("efficientnet-lite0").label == "DISTS[efficientnet-lite0]"


def test_unknown_weights_are_an_input_error():
    with pytest.raises(InputError, match="LPIPS takes the weights alexnet, vgg16"):
        LPIPS("x")
