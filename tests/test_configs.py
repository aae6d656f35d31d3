"""Every YAML in configs/ builds its module, data and trainer, with the documented values."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from callbacks.optimizer_values import OptimizerValues
from callbacks.weight_average import WeightAverage
from core.errors import InputError
from core.model_folders import save_model
from lightning_modules.networks.portrait import CONTROL, REFERENCE, save_portrait_model
from lightning_modules.sampling.presets import read_presets
from lightning_modules.sampling.settings import Sampling
from lightning_modules.training import read_config
from tests.networks.toy import toy_model, toy_vae

CONFIGS = Path(__file__).parents[1] / "configs"
STAGES = sorted(CONFIGS.glob("stage*.yaml"))
BACKBONES = sorted(CONFIGS.glob("backbone_*.yaml"))
PRIORS = sorted(CONFIGS.rglob("noise_prior*.yaml"))  # tests/test_prior_configs.py
LAYERS = sorted(
    [*CONFIGS.glob("scale/mini_gpu.yaml"), *CONFIGS.glob("scale/sd15.yaml"), *CONFIGS.glob("data/*.yaml")]
)
CARD_LAYER = CONFIGS / "scale" / "sd15_24gb.yaml"
STAGE3_LAYER = CONFIGS / "scale" / "sd15_stage3.yaml"
TRAINERS = sorted(CONFIGS.glob("trainer/*.yaml"))  # read by every stage, and by the full-size layers
TABLES = sorted(CONFIGS.glob("evaluate/*.yaml"))  # tests/lightning_modules/evaluation
SETTINGS = sorted(CONFIGS.glob("sampling/*.yaml"))
ON_THIS_MACHINE = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in a temporary folder, since loggers write to the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A toy model's folder."""
    folder = tmp_path_factory.mktemp("model") / "toy"
    save_portrait_model(toy_model(), str(folder))
    return folder


def parts(path, model):
    """Overrides for the parts that a stage takes from earlier stages: the toy model's."""
    given = {"backbone": model}
    if path.name != "stage1.yaml":
        given["appearance"] = model / REFERENCE
    if path.name == "stage3.yaml":
        given["control"] = model / CONTROL
    return [f"--model.init_args.{name}={place}" for name, place in given.items()]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """An override of the VAE: a toy one."""
    folder = tmp_path_factory.mktemp("vae") / "vae"
    save_model(toy_vae(), folder)
    return f"--model.init_args.vae={folder}"


def read(*paths, more=()):
    layers = [f"--config={path}" for path in paths]
    return read_config([*layers, *ON_THIS_MACHINE, *more])


def test_every_config_is_tested():
    known = {
        *STAGES,
        *BACKBONES,
        *PRIORS,
        *LAYERS,
        CARD_LAYER,
        STAGE3_LAYER,
        *TRAINERS,
        *TABLES,
        *SETTINGS,
    }
    assert set(CONFIGS.rglob("*.yaml")) == known


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.stem)
def test_settings_of_sampling_are_valid(path):
    named = read_presets(path)
    assert len(named) > 3
    assert all(Sampling(**values).steps > 0 for values in named.values())


def check_run(cli):
    """Assert what every run has: exact resuming, weight averaging, loggers that need no account."""
    keep = [c for c in cli.trainer.callbacks if isinstance(c, ModelCheckpoint)]
    assert all(c.save_last for c in keep)
    assert any(c.save_on_exception for c in keep)
    assert any(isinstance(c, WeightAverage) for c in cli.trainer.callbacks)
    csv, wandb = cli.trainer.loggers
    assert isinstance(csv, CSVLogger)
    assert isinstance(wandb, WandbLogger)
    assert cli.trainer.max_steps > 0


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.name)
def test_stages_build(path, model):
    check_run(read(path, more=parts(path, model)))


@pytest.mark.parametrize("path", BACKBONES, ids=lambda path: path.name)
def test_backbones_build(path, vae):
    check_run(read(path, more=[vae] if "unet" in path.name else []))


def test_small_backbone_has_16x16_latents_of_128_pixels_and_learns_to_read(vae):
    autoencoder = read(CONFIGS / "backbone_vae.yaml").model.vae
    images = torch.zeros(1, 3, 128, 128)
    assert autoencoder.encode(images).latent_dist.mean.shape == (1, 4, 16, 16)
    cli = read(CONFIGS / "backbone_unet.yaml", more=[vae])
    assert cli.model.hparams.reading > 0
    assert cli.datamodule.pairs


def composed(path, layer):
    """A stage and a layer. Layers of data alone are the same to all stages: one of them is enough for fast
    tests."""
    same = layer.parent.name == "data" and path != STAGES[0]
    marks = [pytest.mark.slow] if same else []
    return pytest.param(path, layer, marks=marks, id=f"{path.name}-{layer.name}")


@pytest.mark.parametrize(("path", "layer"), [composed(path, layer) for path in STAGES for layer in LAYERS])
def test_layers_compose_with_stages(path, layer, model):
    check_run(read(path, layer, more=parts(path, model)))


def test_sd15_layer_has_the_papers_hyperparameters(model):
    stage1 = CONFIGS / "stage1.yaml"
    cli = read(stage1, CONFIGS / "scale" / "sd15.yaml", more=parts(stage1, model))
    config = cli.config
    assert cli.model.learning.rate == 1e-5
    assert config.data.init_args.image_size == 512
    images = config.data.init_args.batch_size * config.data.init_args.targets
    assert images * 8 == 16
    assert config.trainer.precision == "bf16-mixed"
    assert cli.model.denoiser.gradient_checkpointing


def test_full_size_checkpoints_and_averaging(model):
    stage1 = CONFIGS / "stage1.yaml"
    cli = read(stage1, CONFIGS / "scale" / "sd15.yaml", more=parts(stage1, model))
    by_steps, by_time = [c for c in cli.trainer.callbacks if isinstance(c, ModelCheckpoint)]
    assert by_steps._every_n_train_steps == 1000
    assert by_time._train_time_interval == timedelta(minutes=30)
    (average,) = [c for c in cli.trainer.callbacks if isinstance(c, WeightAverage)]
    assert average.decay == 0.9999
    assert average.device == "cpu"
    assert any(isinstance(c, OptimizerValues) for c in cli.trainer.callbacks)


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.name)
def test_24gb_layer_keeps_the_papers_batch_size(path, model):
    layers = [path, CONFIGS / "scale" / "sd15.yaml", CARD_LAYER]
    cli = read(*layers, more=parts(path, model))
    data, trainer = cli.config.data.init_args, cli.config.trainer
    assert data.batch_size * data.targets * trainer.accumulate_grad_batches == 16
    frozen = [x for x in cli.model.denoiser.unet.modules() if isinstance(x, torch.nn.Conv2d)]
    assert {x.weight.dtype for x in frozen} == {torch.bfloat16}
    assert {p.dtype for p in cli.model.trained.parameters()} == {torch.float32}


def test_8bit_optimiser_needs_bitsandbytes(model, monkeypatch):
    monkeypatch.setattr("lightning_modules.optimization.find_spec", lambda _: None)
    stage1 = CONFIGS / "stage1.yaml"
    small = "--model.init_args.learning.optimizer=adamw8bit"
    with pytest.raises(InputError, match=r"pip install -e '.\[adamw8bit\]'"):
        read(stage1, CARD_LAYER, more=[*parts(stage1, model), small])


def test_full_size_cross_view_matches_the_release(model):
    stage3 = CONFIGS / "stage3.yaml"
    cli = read(stage3, CONFIGS / "scale" / "sd15.yaml", STAGE3_LAYER, more=parts(stage3, model))
    assert cli.config.data.init_args.targets == 8
    assert cli.model.denoiser.cross_view.config.positions == 32
    assert cli.model.denoiser.cross_view.config.attentions == 2
    assert cli.model.hparams.timestep_shift == 1


def test_paper_data_mix_replaces_the_default_source(model):
    mix, stage1 = CONFIGS / "data" / "nersemble_panohead.yaml", CONFIGS / "stage1.yaml"
    cli = read(stage1, CONFIGS / "scale" / "sd15.yaml", mix, more=parts(stage1, model))
    sources = cli.config.data.init_args.sources
    assert {name: source.weight for name, source in sources.items()} == {"nersemble": 0.5, "panohead": 0.5}


def test_small_backbone_is_at_most_20_mb(vae):
    autoencoder = read(CONFIGS / "backbone_vae.yaml").model.vae
    unet = read(CONFIGS / "backbone_unet.yaml", more=[vae]).model.denoiser.unet
    parameters = sum(p.numel() for module in (autoencoder, unet) for p in module.parameters())
    # in half precision, at most 20 MB
    assert parameters * torch.finfo(torch.float16).bits // 8 <= 20e6
