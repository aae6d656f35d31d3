"""A resumed run repeats the losses and weights of an uninterrupted one."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.weight_average import WeightAverage
from core.model_folders import save_model
from datamodules.pool import ImagePool
from lightning_modules.backbone_unet import BackboneModule
from lightning_modules.backbone_vae import AutoencoderModule
from lightning_modules.interruptions import StopTogether
from lightning_modules.optimization import Learning
from tests.lightning_modules.recording import Losses, Terminate, equal
from tests.networks.toy import toy_vae

STEPS = 5
LEARNING = Learning(1e-3, decay="cosine", warmup_steps=2)


def run(trainer_of, module, data, callbacks, ckpt_path=None, **options):
    losses, average = Losses(), WeightAverage(0.9)
    trainer = trainer_of(max_steps=STEPS, callbacks=[losses, average, *callbacks], **options)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return losses.by_step, average.average


def interrupted(trainer_of, make_module, make_data, folder, at, **options):
    """Losses, weights and weight average of a run that was stopped by SIGTERM in micro-batch `at` and
    resumed."""
    keep = ModelCheckpoint(dirpath=folder, save_last=True, save_on_exception=True)
    losses = Losses()
    trainer = trainer_of(
        max_steps=STEPS,
        callbacks=[losses, WeightAverage(0.9), Terminate(at), StopTogether(), keep],
        enable_checkpointing=True,
        **options,
    )
    with pytest.raises(SIGTERMException):
        trainer.fit(make_module(), make_data())
    module = make_module()
    after, average = run(trainer_of, module, make_data(), [], str(folder / "last.ckpt"), **options)
    return losses.by_step | after, module.state_dict(), average


@pytest.mark.parametrize(("accumulate", "at"), [(1, 2), (2, 3), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_stage_resume_repeats_losses_and_weights(
    make_trainer, make_stage, make_data, tmp_path, accumulate, at
):
    options = {"accumulate_grad_batches": accumulate}
    module = make_stage(learning=LEARNING)
    losses, average = run(make_trainer, module, make_data(), [], **options)
    resumed = interrupted(
        make_trainer, lambda: make_stage(learning=LEARNING), make_data, tmp_path / "kept", at, **options
    )
    assert len(losses) == STEPS * accumulate
    assert resumed[0] == losses
    assert equal(resumed[1], module.state_dict())
    assert equal(resumed[2], average)


# an epoch has 4 batches: inside the first, at its last batch, after it
@pytest.mark.parametrize("at", [1, 3, 4])
def test_autoencoder_resume_repeats_losses(make_trainer, capture, tmp_path, at):
    def make_module():
        torch.manual_seed(0)
        return AutoencoderModule([8, 8], norm_num_groups=4, image_size=16, learning=LEARNING)

    def make_data():
        return ImagePool([str(capture)], batch_size=8)

    module = make_module()
    losses, average = run(make_trainer, module, make_data(), [])
    resumed = interrupted(make_trainer, make_module, make_data, tmp_path / "kept", at)
    assert resumed[0] == losses
    assert equal(resumed[2], average)


def test_backbone_resume_repeats_losses(make_trainer, capture, tmp_path):
    vae = tmp_path / "vae"
    save_model(toy_vae(), vae)

    def make_module():
        torch.manual_seed(0)
        return BackboneModule(str(vae), [8, 8], norm_num_groups=4, cross_attention_dim=8, learning=LEARNING)

    def make_data():
        return ImagePool([str(capture)], batch_size=8, vae=str(vae))

    module = make_module()
    losses, average = run(make_trainer, module, make_data(), [])
    resumed = interrupted(make_trainer, make_module, make_data, tmp_path / "kept", 2)
    assert resumed[0] == losses
    assert equal(resumed[2], average)
