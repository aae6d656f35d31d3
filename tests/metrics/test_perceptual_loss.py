import pytest
import torch

from core.errors import InputError
from metrics.catalogue import published
from metrics.perceptual_loss import PerceptualLoss


@pytest.fixture(scope="module")
def loss():
    return PerceptualLoss("efficientnet-lite0")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(-1, 1)


def test_loss_is_zero_for_equal_images_and_increases_with_noise(loss, images):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    distances = [float(loss(images + scale * noise, images)) for scale in (0.0, 0.05, 0.1, 0.2)]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert len(set(distances)) == 4


def test_network_is_frozen_and_passes_gradients(loss, images):
    before = {name: x.clone() for name, x in loss.state_dict().items()}
    moved = (images * 0.9).requires_grad_()
    loss.train()(moved, images).backward()
    assert moved.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())
    assert all(torch.equal(x, before[name]) for name, x in loss.state_dict().items())


def test_missing_or_incomplete_weights_are_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"vgg16: not at .*metric-weights"):
        PerceptualLoss("vgg16")
    path = published("vgg16").path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    with pytest.raises(InputError, match=f"{path} is not the published file"):
        PerceptualLoss("vgg16")
