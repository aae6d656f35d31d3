"""The YAMLs of the noise prior S: they build, and the run's name and settings say whose perceptual loss it
is."""

import pytest
import torch

from lightning_modules.noise_prior import NoisePriorStage
from shards.errors import InputError
from tests.test_configs import CONFIGS, check_run, elsewhere, read

PRIOR, LARGE = CONFIGS / "noise_prior.yaml", CONFIGS / "scale" / "noise_prior_512.yaml"
DATA = sorted(CONFIGS.glob("data/*.yaml"))

__all__ = ["elsewhere"]  # loggers may write; nothing is to appear beside the sources


@pytest.mark.parametrize("layers", [[], *([path] for path in DATA)], ids=lambda layers: str(len(layers)))
def test_the_small_scale(layers):
    cli = read(PRIOR, *layers)
    check_run(cli)
    assert isinstance(cli.model, NoisePriorStage)
    assert cli.model.prior.config.image_size == 64
    assert cli.trainer.loggers[0].name.endswith(cli.model.perceptual.weights)
    parameters = sum(p.numel() for p in cli.model.prior.parameters())
    assert parameters * torch.finfo(torch.float16).bits // 8 <= 5e6


def test_the_paper_s_loss_takes_its_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="perceptual weights vgg16: not at"):
        read(PRIOR, LARGE)


@pytest.mark.slow
def test_the_large_scale():
    cli = read(PRIOR, LARGE, more=["--model.init_args.perceptual=efficientnet-lite0"])
    check_run(cli)
    assert cli.model.prior.config.image_size == cli.config.data.init_args.image_size == 512
    assert cli.trainer.loggers[0].name == "noise_prior-vgg16"
