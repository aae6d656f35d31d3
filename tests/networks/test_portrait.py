import pytest
import torch

from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.portrait import PortraitModel, load_portrait_model, save_portrait_model
from lightning_modules.networks.pretrained import save_backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.view_control import view_control
from shards.errors import InputError
from tests.networks.toy import noise, shake, toy_backbone


def models():
    backbone = toy_backbone()
    reference = shake(AppearanceReference.from_unet(backbone.unet))
    control = shake(view_control(backbone.unet, backbone.downsampling))
    cross_view = shake(CrossView.from_unet(backbone.unet, heads=4))
    yield PortraitModel(backbone, reference)
    yield PortraitModel(backbone, reference, control)
    yield PortraitModel(backbone, reference, control, cross_view)


@torch.no_grad()
def predict(model):
    timesteps = torch.full((4,), 300)
    bank = model.reference(noise(2, 1, 4, 8, 8), timesteps[:2], model.backbone.empty_prompt)
    condition = None if model.control is None else noise(4, 3, 32, 32)
    return model.denoiser().eval()(noise(4, 4, 8, 8), timesteps, bank, condition, views=2)


def test_round_trip_of_each_stage_is_exact(tmp_path):
    for stage, model in enumerate(models()):
        save_portrait_model(model, str(tmp_path / str(stage)))
        loaded = load_portrait_model(str(tmp_path / str(stage)))
        assert (loaded.control is None) == (stage < 1)
        assert (loaded.cross_view is None) == (stage < 2)
        assert torch.equal(predict(loaded), predict(model))


def test_a_backbone_alone_is_one_line(tmp_path):
    save_backbone(toy_backbone(), str(tmp_path / "backbone"))
    with pytest.raises(InputError, match="has no appearance_reference/"):
        load_portrait_model(str(tmp_path / "backbone"))


def test_f_ref_of_another_backbone_is_one_line(tmp_path):
    save_portrait_model(next(models()), str(tmp_path / "model"))
    config = tmp_path / "model" / "appearance_reference" / "config.json"
    config.write_text(config.read_text().replace('"layers_per_block": 1', '"layers_per_block": 2'))
    with pytest.raises(InputError, match="appearance_reference: missing"):
        load_portrait_model(str(tmp_path / "model"))
