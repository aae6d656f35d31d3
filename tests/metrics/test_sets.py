"""FID and KID: closed forms, ordering, and agreement with other packages."""

import io

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import NoTrainInceptionV3, _compute_fid
from torchmetrics.image.kid import poly_mmd

from core.errors import InputError
from metrics import FID, KID
from metrics.features import InceptionFeatures
from metrics.sets import ENOUGH_FOR_FID, frechet_distance, kernel_distance
from tests.metrics.conftest import distorted


def gaussian(count, deviations, mean, seed):
    """Features whose sample mean and covariance are exactly the given ones."""
    draw = torch.randn(
        count, len(deviations), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    white = torch.linalg.qr(draw - draw.mean(0)).Q * (count - 1) ** 0.5
    return white * torch.tensor(deviations, dtype=torch.float64) + torch.tensor(mean, dtype=torch.float64)


@pytest.mark.parametrize("counts", [(50, 50), (50, 9)])
def test_frechet_distance_matches_the_closed_form(counts):
    first = gaussian(counts[0], (1.0, 2.0, 0.5), (0.0, 1.0, -1.0), 0)
    second = gaussian(counts[1], (3.0, 0.1, 0.5), (2.0, 1.0, 0.0), 1)
    closed_form = (4 + 0 + 1) + (2.0**2 + 1.9**2 + 0)
    assert float(frechet_distance(first, second)) == pytest.approx(closed_form)


@pytest.mark.parametrize("counts", [(200, 150), (12, 9)])
def test_fid_and_kid_match_torchmetrics(counts):
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, 24, generator=draw, dtype=torch.float64) for n in counts)
    second = second * 1.3 + 0.2
    moments = [m for x in (first, second) for m in (x.mean(0), x.T.cov())]
    assert float(frechet_distance(first, second)) == pytest.approx(float(_compute_fid(*moments)), rel=1e-6)
    same = min(counts)
    other = poly_mmd(first[:same], second[:same])
    assert float(kernel_distance(first[:same], second[:same])) == pytest.approx(float(other))


@pytest.fixture(scope="module", params=[FID, KID])
def metric(request):
    return request.param("efficientnet-lite0")


@pytest.mark.filterwarnings("ignore:FID")
@pytest.mark.parametrize(
    ("how", "amounts"),
    [
        ("blur", (1.0, 3.0)),
        pytest.param("noise", (0.15, 0.4), marks=pytest.mark.slow),
        pytest.param("shift", (4, 16), marks=pytest.mark.slow),
    ],
)
def test_distance_increases_with_distortion(metric, people, how, amounts):
    images = people.views[:, 0]
    sets = [images, *(distorted(images, how, amount) for amount in amounts)]
    distances = _distances(metric, images, sets)
    assert distances == sorted(distances)
    assert distances[0] == pytest.approx(0, abs=1e-6) if isinstance(metric, FID) else distances[0] < 0


@pytest.mark.filterwarnings("ignore:FID")
def test_distance_increases_with_missing_people(metric, people):
    images = people.views[:, 0]
    sets = [torch.cat([images[: 8 - gone], images[:1].expand(gone, -1, -1, -1)]) for gone in (0, 3, 6)]
    distances = _distances(metric, images, sets)
    assert distances == sorted(distances)


def _distances(metric, real, sets):
    features, distances = metric.network(real), []
    for images in sets:
        metric.reset()
        metric.update(real, True, features=features)
        metric.update(images, False)
        distances.append(float(metric.compute()))
    return distances


def test_fid_notes_few_images_and_refuses_none():
    metric = FID("efficientnet-lite0", nn.Identity())
    metric.update(torch.empty(0), True, features=torch.randn(5, 3))
    with pytest.raises(InputError, match="one of them is empty"):
        metric.compute()
    metric.update(torch.empty(0), False, features=torch.randn(5, 3))
    assert metric.compute() > 0
    assert f"over 5 images is biased upwards ({ENOUGH_FOR_FID} or more" in metric.note(5)
    assert metric.note(ENOUGH_FOR_FID) is None


def test_kid_is_unbiased_where_fid_is_not():
    draw = torch.Generator().manual_seed(0)
    pairs = [[torch.randn(10, 8, generator=draw, dtype=torch.float64) for _ in range(2)] for _ in range(300)]
    kernel = torch.stack([kernel_distance(*pair) for pair in pairs])
    assert abs(float(kernel.mean())) < 3 * float(kernel.std()) / 300**0.5
    assert min(float(frechet_distance(*pair)) for pair in pairs) > 0.5


def test_inception_features_match_torchmetrics(publish, monkeypatch, photo):
    def empty():
        file = io.BytesIO()
        torch.save({}, file)
        file.seek(0)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        other = NoTrainInceptionV3("x", ["2048"], empty(), antialias=False)
    publish("inception-2015", other)
    features = InceptionFeatures()(photo)
    assert features.shape == (1, 2048)
    pixels = photo.add(1).mul(127.5).round().to(torch.uint8)
    torch.testing.assert_close(features, other(pixels))
    assert FID().label == "FID"
