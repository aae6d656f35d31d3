import json
import shutil
from dataclasses import replace

import pytest
import torch

from core.errors import InputError
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.portrait import (
    CONTROL,
    CROSS_VIEW,
    NOISE_PRIOR,
    PortraitModel,
    load_portrait_model,
    save_portrait_model,
)
from lightning_modules.networks.pretrained import save_backbone
from lightning_modules.networks.provenance import CARD
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.view_control import view_control
from tests.networks.toy import noise, shake, toy_backbone, toy_model, toy_prior


def models():
    backbone = toy_backbone()
    reference = shake(AppearanceReference.from_unet(backbone.unet))
    control = shake(view_control(backbone.unet, backbone.downsampling))
    cross_view = shake(CrossView.from_unet(backbone.unet, heads=4))
    yield PortraitModel(backbone, reference)
    yield PortraitModel(backbone, reference, control)
    yield PortraitModel(backbone, reference, control, cross_view)


def parts(model):
    everything = (*vars(model.backbone).values(), model.reference, model.control, model.cross_view)
    return [part for part in everything if isinstance(part, torch.nn.Module)]


@torch.no_grad()
def predict(model):
    timesteps = torch.full((4,), 300)
    bank = model.reference(noise(2, 1, 4, 8, 8), timesteps[:2], model.backbone.empty_prompt)
    condition = None if model.control is None else noise(4, 3, 32, 32)
    return model.denoiser().eval()(noise(4, 4, 8, 8), timesteps, bank, condition, views=2)


def test_model_folder_round_trip_after_each_stage(tmp_path):
    for stage, model in enumerate(models()):
        save_portrait_model(model, str(tmp_path / str(stage)))
        loaded = load_portrait_model(str(tmp_path / str(stage)))
        assert (loaded.control is None) == (stage < 1)
        assert (loaded.cross_view is None) == (stage < 2)
        for ours, again in zip(parts(model), parts(loaded), strict=True):
            kept, read = ours.state_dict(), again.state_dict()
            assert kept.keys() == read.keys()
            assert all(torch.equal(kept[name], read[name]) for name in kept)
        # memory alignment decides the kernel, and so the rounding
        torch.testing.assert_close(predict(loaded), predict(model), rtol=1e-4, atol=1e-5)


def test_backbone_without_f_ref_is_an_input_error(tmp_path):
    save_backbone(toy_backbone(), str(tmp_path / "backbone"))
    with pytest.raises(InputError, match="has no appearance_reference/"):
        load_portrait_model(str(tmp_path / "backbone"))


def test_f_ref_of_another_backbone_is_an_input_error(tmp_path):
    save_portrait_model(next(models()), str(tmp_path / "model"))
    config = tmp_path / "model" / "appearance_reference" / "config.json"
    config.write_text(config.read_text().replace('"layers_per_block": 1', '"layers_per_block": 2'))
    with pytest.raises(InputError, match="appearance_reference: missing"):
        load_portrait_model(str(tmp_path / "model"))


def test_parts_trained_with_other_parts_are_refused(tmp_path):
    """Parts trained with another F_ref, or of another stage, are refused."""
    *_, model = models()
    save_portrait_model(model, str(tmp_path / "model"), torch.float16)
    card = json.loads((tmp_path / "model" / CROSS_VIEW / CARD).read_text())
    assert card["settings"]["trained_with"].keys() == {"appearance", "view_control"}
    shake(model.reference)
    save_portrait_model(model, str(tmp_path / "other"))
    for name in (CONTROL, CROSS_VIEW):
        shutil.copytree(tmp_path / "model", mixed := tmp_path / f"mixed_{name}")
        shutil.rmtree(mixed / name)
        shutil.copytree(tmp_path / "other" / name, mixed / name)
        with pytest.raises(InputError, match=f"{name} was trained with another part of the stage appearance"):
            load_portrait_model(str(mixed))
    shutil.copy(tmp_path / "model" / CONTROL / CARD, tmp_path / "model" / CROSS_VIEW / CARD)
    with pytest.raises(InputError, match="of the stage view_control; a part of view_consistency is needed"):
        load_portrait_model(str(tmp_path / "model"))


def test_folder_without_trained_with_entries_loads(tmp_path):
    *_, model = models()
    save_portrait_model(model, str(tmp_path / "model"))
    for card in (tmp_path / "model").glob(f"*/{CARD}"):
        values = json.loads(card.read_text())
        values["settings"] = {"reference_timestep": "zero"}
        card.write_text(json.dumps(values))
    assert load_portrait_model(str(tmp_path / "model")).reference_timestep == "zero"


def test_noise_prior_keeps_its_card_and_must_match_the_image_size(tmp_path):
    prior = toy_prior()
    prior.register_to_config(perceptual="vgg16")
    save_portrait_model(replace(toy_model(), noise_prior=prior), str(tmp_path / "model"))
    card = json.loads((tmp_path / "model" / NOISE_PRIOR / CARD).read_text())
    assert (card["stage"], card["settings"]) == ("noise_prior", {"perceptual": "vgg16"})
    larger = toy_prior(image_size=32, encoder_channels=(8,) * 5, rendering_size=16)
    save_portrait_model(replace(toy_model(), noise_prior=larger), str(tmp_path / "larger"))
    with pytest.raises(InputError, match="noise_prior: S generates images of 32 pixels, but F needs 16"):
        load_portrait_model(str(tmp_path / "larger"))
