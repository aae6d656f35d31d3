from pathlib import Path

import pytest
import torch

from core.errors import InputError
from core.model_folders import save_model
from lightning_modules.assemble import assemble
from lightning_modules.networks.portrait import (
    CONTROL,
    CROSS_VIEW,
    NOISE_PRIOR,
    REFERENCE,
    save_portrait_model,
)
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from tests.networks.toy import shake, toy_model, toy_prior


@pytest.fixture
def exported(tmp_path):
    save_portrait_model(toy_model(), str(tmp_path / "parts"))
    return tmp_path / "parts"


def test_parts_are_assembled_into_a_model(exported, tmp_path):
    out = tmp_path / "model"
    parts = {"control": str(exported / CONTROL), "views": str(exported / CROSS_VIEW)}
    assemble(str(exported), str(exported / REFERENCE), str(out), **parts, dtype="float32")
    pipeline = DiffPortrait3DPipeline.from_pretrained(out)
    assert pipeline.config.reference_timestep == "zero"
    for name, x in toy_model().cross_view.state_dict().items():
        assert torch.equal(pipeline.cross_view.state_dict()[name], x)


def test_part_of_another_run_is_an_input_error(exported, tmp_path):
    other = toy_model()
    shake(other.reference)
    save_portrait_model(other, str(tmp_path / "other"))
    parts = {"control": str(exported / CONTROL), "views": str(tmp_path / "other" / CROSS_VIEW)}
    with pytest.raises(InputError, match="cross_view was trained with another part of the stage appearance"):
        assemble(str(exported), str(exported / REFERENCE), str(tmp_path / "model"), **parts)
    assert not (tmp_path / "model").exists()


def test_noise_prior_must_match_the_image_size(tmp_path):
    save_portrait_model(toy_model(prior=True), str(tmp_path / "parts"))
    backbone, reference = str(tmp_path / "parts"), str(tmp_path / "parts" / REFERENCE)
    assemble(backbone, reference, str(tmp_path / "model"), prior=str(tmp_path / "parts" / NOISE_PRIOR))
    again = str(tmp_path / "model" / NOISE_PRIOR)
    assemble(backbone, reference, str(tmp_path / "again"), prior=again)
    larger = toy_prior(image_size=32, encoder_channels=(8,) * 5, rendering_size=16)
    save_model(larger, Path(again))
    with pytest.raises(InputError, match="S generates images of 32 pixels, but F needs 16"):
        assemble(backbone, reference, str(tmp_path / "third"), prior=again)
    with pytest.raises(InputError, match="of the stage appearance; a part of noise_prior is needed"):
        assemble(backbone, reference, str(tmp_path / "third"), prior=reference)


def test_wrong_parts_are_input_errors(exported, tmp_path):
    with pytest.raises(InputError, match="of the stage view_control; a part of appearance is needed"):
        assemble(str(exported), str(exported / CONTROL), str(tmp_path / "model"))
    with pytest.raises(InputError, match="exists"):
        assemble(str(exported), str(exported / REFERENCE), str(exported))
    assert not (tmp_path / "model").exists()
