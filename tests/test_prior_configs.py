"""The YAMLs of the noise prior S build, and name the perceptual loss they use."""

import pytest
import torch

from core.errors import InputError
from lightning_modules.noise_prior import NoisePriorStage
from portraits.cameras import label_from_angles
from tests.test_configs import CONFIGS, check_run, elsewhere, read

PRIOR, LARGE = CONFIGS / "noise_prior.yaml", CONFIGS / "scale" / "noise_prior_512.yaml"
DATA = sorted(CONFIGS.glob("data/*.yaml"))

__all__ = ["elsewhere"]


@pytest.mark.parametrize("layers", [[], *([path] for path in DATA)], ids=lambda layers: str(len(layers)))
def test_small_scale_builds(layers):
    cli = read(PRIOR, *layers)
    check_run(cli)
    assert isinstance(cli.model, NoisePriorStage)
    assert cli.model.prior.config.image_size == 128
    assert cli.trainer.loggers[0].name.endswith(cli.model.perceptual.weights)
    parameters = sum(p.numel() for p in cli.model.prior.parameters())
    assert parameters * torch.finfo(torch.float16).bits // 8 <= 6e6


def test_small_prior_predicts_128_pixels():
    cli = read(PRIOR)
    check_run(cli)
    prior, side = cli.model.prior, cli.config.data.init_args.image_size
    camera = torch.from_numpy(label_from_angles(0.3, 0.1)).expand(1, 1, 25)
    with torch.no_grad():
        assert prior(torch.zeros(1, 1, 3, side, side), camera).shape == (1, 1, 3, 128, 128)


def test_vgg_loss_needs_its_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="weights vgg16: not at"):
        read(PRIOR, LARGE)


NARROW = {
    "encoder_channels": [8] * 8,
    "code_channels": 8,
    "volume_channels": [8, 8],
    "grow_channels": [8, 8],
    "feature_channels": 4,
    "field_channels": 4,
    "surroundings_channels": 8,
    "decoder_channels": [8, 8, 8],
    "coarse": 3,
    "fine": 2,
}


def test_512_layer_predicts_512_pixels():
    """The layer's own settings at narrower channels."""
    narrow = [f"--model.init_args.prior.init_args.{name}={value}" for name, value in NARROW.items()]
    cli = read(PRIOR, LARGE, more=["--model.init_args.perceptual=efficientnet-lite0", *narrow])
    check_run(cli)
    prior, side = cli.model.prior, cli.config.data.init_args.image_size
    assert (side, prior.config.rendering_size) == (512, 128)
    images = cli.config.data.init_args.batch_size * cli.config.data.init_args.targets
    assert images * 8 == 16  # a step on eight GPUs
    camera = torch.from_numpy(label_from_angles(0.3, 0.1)).expand(1, 1, 25)
    with torch.no_grad():
        assert prior(torch.zeros(1, 2, 3, side, side), camera).shape == (1, 1, 3, side, side)


@pytest.mark.slow
def test_512_layer_builds():
    cli = read(PRIOR, LARGE, more=["--model.init_args.perceptual=efficientnet-lite0"])
    check_run(cli)
    assert cli.model.prior.config.image_size == cli.config.data.init_args.image_size == 512
    assert cli.trainer.loggers[0].name == "noise_prior-vgg16"
