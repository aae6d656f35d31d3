"""Stages 2 and 3: what they load, what they train, what they leave alone, and what their probes compare."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.weight_average import WeightAverage
from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.portrait import CONTROL, REFERENCE, save_portrait_model
from lightning_modules.optimization import Learning
from lightning_modules.parts import load_part
from lightning_modules.view_consistency import ViewConsistencyStage
from lightning_modules.view_control import ViewControlStage
from shards.errors import InputError
from tests.lightning_modules.recording import Losses, Terminate, equal
from tests.networks.toy import shake, toy_model

LEARNING = Learning(1e-3, decay="cosine", warmup_steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A toy model's folder."""
    folder = tmp_path_factory.mktemp("model") / "toy"
    save_portrait_model(toy_model(), str(folder))
    return folder


@pytest.fixture
def make(model):
    """Makes stage 2 or 3 on the toy model's parts."""

    def build(stage, **change):
        torch.manual_seed(0)  # F_cam's hint encoder and V start from random weights, as `fit` seeds them
        options = {"backbone": str(model), "appearance": str(model / REFERENCE), "sample_steps": 2}
        if stage == 3:
            options |= {"control": str(model / CONTROL), "positions": 0, "attentions": 1}
        return (ViewControlStage if stage == 2 else ViewConsistencyStage)(
            **{**options, "learning": LEARNING, **change}
        )

    return build


@pytest.fixture
def data(make_data):
    return lambda: make_data(conditions=True)


@pytest.mark.parametrize("number", [2, 3])
def test_only_its_own_part_changes(number, make, data, make_trainer):
    stage = make(number)
    before = {name: x.clone() for name, x in stage.state_dict().items()}
    make_trainer(max_steps=3).fit(stage, data())
    after = stage.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(f"{stage.part}.") for name in changed)
    assert all(p.grad is None for n, p in stage.named_parameters() if not n.startswith(f"{stage.part}."))


@pytest.mark.parametrize("number", [2, 3])
def test_every_parameter_of_its_part_learns(number, make, data, make_trainer):
    seen = {}

    class Gradients(WeightAverage):
        def on_after_backward(self, trainer, pl_module):
            for name, parameter in pl_module.trained.named_parameters():
                seen[name] = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)

    stage = make(number)
    shake(stage.trained)  # behind a zero convolution nothing learns at the first step
    make_trainer(max_steps=1, callbacks=[Gradients()]).fit(stage, data())
    assert seen
    assert all(seen.values()), [name for name, learns in seen.items() if not learns]


@pytest.mark.parametrize("number", [2, 3])
def test_before_training_the_part_adds_nothing(number, make, data, make_trainer):
    trainer = make_trainer(limit_val_batches=1.0)
    with_part = trainer.validate(make(number), data(), verbose=False)[0]
    kind = {2: "condition", 3: "views"}[number]
    assert with_part[f"val/{kind}_gain"] == pytest.approx(0, abs=1e-5)
    assert with_part["val/reference_gain"] != pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("number", [2, 3])
def test_once_it_does_something_the_probe_tells(number, make, data, make_trainer):
    stage = make(number)
    shake(stage.trained, 0.2)
    found = make_trainer(limit_val_batches=1.0).validate(stage, data(), verbose=False)[0]
    kind = {2: "condition", 3: "views"}[number]
    gain = found[f"val/loss_without_{kind}"] - found["val/loss"]
    assert found[f"val/{kind}_gain"] == pytest.approx(gain, abs=1e-5)
    assert abs(gain) > 1e-5


@pytest.mark.parametrize("number", [2, 3])
def test_pictures_show_condition_target_and_sample(number, make, data):
    source = data()
    source.setup("validate")
    drawn = make(number).pictures(source.samples(2))["samples"]
    assert drawn.shape == (2, 4 if number == 2 else 1 + 3 * 3, 3, 16, 16)


@pytest.mark.parametrize("number", [2, 3])
def test_resumes_exactly(number, make, data, make_trainer, tmp_path):
    def run(stage, *callbacks, ckpt_path=None):
        losses, average = Losses(), WeightAverage(0.9)
        trainer = make_trainer(
            max_steps=4, callbacks=[losses, average, *callbacks], enable_checkpointing=bool(callbacks)
        )
        trainer.fit(stage, data(), ckpt_path=ckpt_path)
        return losses.by_step, average.average

    whole = make(number)
    losses, average = run(whole)
    keep = ModelCheckpoint(dirpath=tmp_path, save_last=True, save_on_exception=True)
    with pytest.raises(SIGTERMException):
        run(make(number), Terminate(2), keep)
    again = make(number)
    after, resumed = run(again, ckpt_path=str(tmp_path / "last.ckpt"))
    assert after == {step: loss for step, loss in losses.items() if step in after}
    assert after
    assert equal(again.state_dict(), whole.state_dict())
    assert equal(resumed, average)


def test_each_stage_goes_on_from_the_checkpoint_before(
    make, make_stage, make_data, data, make_trainer, tmp_path
):
    def train(stage, source, name):
        keep = ModelCheckpoint(dirpath=tmp_path, filename=name, every_n_train_steps=2)
        trainer = make_trainer(max_steps=2, callbacks=[WeightAverage(0.5), keep], enable_checkpointing=True)
        trainer.fit(stage, source)
        return str(tmp_path / f"{name}.ckpt")

    first = train(make_stage(), make_data(), "one")
    second = train(make(2, appearance=first), data(), "two")
    third = make(3, appearance=first, control=second)
    card = load_part(third.denoiser.control, second, "view_control", third.fingerprint)
    assert card.settings == {"reference_timestep": "zero"}
    train(third, data(), "three")


def test_a_part_of_the_wrong_stage_is_one_line(make, model):
    with pytest.raises(InputError, match="of the stage view_control; the stage appearance is wanted"):
        make(2, appearance=str(model / CONTROL))
    with pytest.raises(InputError, match="of the stage appearance; the stage view_control is wanted"):
        make(3, control=str(model / REFERENCE))
    with pytest.raises(InputError, match="no such checkpoint"):
        make(2, appearance=str(model / "nothing.ckpt"))


def test_parts_of_two_runs_are_one_line(make, model, tmp_path):
    stage = AppearanceStage(backbone=str(model), reference_timestep="current")
    stage.export(tmp_path / "current")
    with pytest.raises(InputError, match="trained with F_ref at the zero timestep"):
        make(3, appearance=str(tmp_path / "current"))


def test_a_part_of_another_backbone_is_one_line(make, tmp_path):
    other = toy_model()
    with torch.no_grad():
        other.backbone.unet.conv_in.weight.add_(1)
    save_portrait_model(other, str(tmp_path / "other"))
    with pytest.raises(InputError, match="another backbone"):
        make(2, appearance=str(tmp_path / "other" / REFERENCE))
