import pytest
import torch

from lightning_modules.assemble import assemble
from lightning_modules.networks.portrait import CONTROL, CROSS_VIEW, REFERENCE, save_portrait_model
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from shards.errors import InputError
from tests.networks.toy import toy_model


@pytest.fixture
def exported(tmp_path):
    save_portrait_model(toy_model(), str(tmp_path / "parts"))
    return tmp_path / "parts"


def test_parts_make_a_model(exported, tmp_path):
    out = tmp_path / "model"
    parts = {"control": str(exported / CONTROL), "views": str(exported / CROSS_VIEW)}
    assemble(str(exported), str(exported / REFERENCE), str(out), **parts, dtype="float32")
    pipeline = DiffPortrait3DPipeline.from_pretrained(out)
    assert pipeline.config.reference_timestep == "zero"
    for name, x in toy_model().cross_view.state_dict().items():
        assert torch.equal(pipeline.cross_view.state_dict()[name], x)


def test_parts_that_do_not_fit_are_one_line(exported, tmp_path):
    with pytest.raises(InputError, match="of the stage view_control; the stage appearance is wanted"):
        assemble(str(exported), str(exported / CONTROL), str(tmp_path / "model"))
    with pytest.raises(InputError, match="exists"):
        assemble(str(exported), str(exported / REFERENCE), str(exported))
    assert not (tmp_path / "model").exists()
