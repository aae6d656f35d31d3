"""Stages 2 and 3: loading of earlier parts, training, validation gains, resuming, errors."""

import json
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.weight_average import WeightAverage
from core import fingerprints
from core.errors import InputError
from core.seeding import torch_generator
from datamodules.stream import TrainBatches
from lightning_modules.appearance import AppearanceStage
from lightning_modules.interruptions import StopTogether
from lightning_modules.networks.portrait import CONTROL, REFERENCE, save_portrait_model
from lightning_modules.networks.provenance import CARD
from lightning_modules.optimization import Learning
from lightning_modules.parts import load_part
from lightning_modules.view_consistency import ViewConsistencyStage, drawn_length, split_views
from lightning_modules.view_control import ViewControlStage
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
    """A function that makes stage 2 or 3 on the toy model's parts."""

    def build(stage, **change):
        torch.manual_seed(0)  # for the random initial weights of F_cam and V
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
def test_training_changes_only_its_part(number, make, data, make_trainer):
    stage = make(number)
    before = {name: x.clone() for name, x in stage.state_dict().items()}
    make_trainer(max_steps=3).fit(stage, data())
    after = stage.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(f"{stage.part}.") for name in changed)
    assert all(p.grad is None for n, p in stage.named_parameters() if not n.startswith(f"{stage.part}."))


@pytest.mark.parametrize("number", [2, 3])
def test_every_parameter_of_the_part_gets_a_gradient(number, make, several_tokens, make_trainer):
    seen = {}

    class Gradients(WeightAverage):
        def on_after_backward(self, trainer, pl_module):
            for name, parameter in pl_module.trained.named_parameters():
                seen[name] = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)

    given, source = several_tokens
    if number == 3:
        given = given | {"control": str(Path(given["backbone"]) / CONTROL)}
    stage = make(number, **given)
    shake(stage.trained)  # weights before a zero convolution get no gradient at first
    make_trainer(max_steps=1, callbacks=[Gradients()]).fit(stage, source)
    assert seen
    assert all(seen.values()), [name for name, learns in seen.items() if not learns]


@pytest.mark.parametrize("number", [2, 3])
def test_untrained_part_has_zero_gain(number, make, data, make_trainer):
    trainer = make_trainer(limit_val_batches=1.0)
    with_part = trainer.validate(make(number), data(), verbose=False)[0]
    kind = {2: "condition", 3: "views"}[number]
    assert with_part[f"val/{kind}_gain"] == pytest.approx(0, abs=1e-5)
    assert with_part["val/reference_gain"] != pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("number", [2, 3])
def test_gain_is_the_loss_without_the_part_minus_the_loss(number, make, data, make_trainer):
    stage = make(number)
    shake(stage.trained, 0.2)
    found = make_trainer(limit_val_batches=1.0).validate(stage, data(), verbose=False)[0]
    kind = {2: "condition", 3: "views"}[number]
    gain = found[f"val/loss_without_{kind}"] - found["val/loss"]
    assert found[f"val/{kind}_gain"] == pytest.approx(gain, abs=1e-5)
    assert abs(gain) > 1e-5


@pytest.mark.parametrize(("number", "views"), [(2, 1), (3, 3)])
def test_pictures_show_condition_target_and_sample(number, views, make, data):
    source = data()
    source.setup("validate")
    batch = source.samples(2)
    drawn = make(number).pictures(batch)["samples"]
    assert drawn.shape == (2, 1 + 3 * views, 3, 16, 16)
    assert torch.equal(drawn[:, 0], batch["reference"][:, 0])
    assert torch.equal(drawn[:, 1::3], batch["condition"][:, :views])
    assert torch.equal(drawn[:, 2::3], batch["target"][:, :views])


@pytest.mark.parametrize(("number", "change"), [(2, {}), (3, {}), (3, {"fewer_views": True})])
def test_resume_repeats_losses_and_weights(number, change, make, data, make_trainer, tmp_path):
    def run(stage, *callbacks, ckpt_path=None):
        losses, average = Losses(), WeightAverage(0.9)
        trainer = make_trainer(
            max_steps=4, callbacks=[losses, average, *callbacks], enable_checkpointing=bool(callbacks)
        )
        trainer.fit(stage, data(), ckpt_path=ckpt_path)
        return losses.by_step, average.average

    whole = make(number, **change)
    losses, average = run(whole)
    keep = ModelCheckpoint(dirpath=tmp_path, save_last=True, save_on_exception=True)
    with pytest.raises(SIGTERMException):
        run(make(number, **change), Terminate(2), StopTogether(), keep)
    again = make(number, **change)
    after, resumed = run(again, ckpt_path=str(tmp_path / "last.ckpt"))
    assert after == {step: loss for step, loss in losses.items() if step in after}
    assert after
    assert equal(again.state_dict(), whole.state_dict())
    assert equal(resumed, average)


def test_stages_load_parts_from_earlier_checkpoints(
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
    known = fingerprints.of_tensors(third.reference.state_dict())
    assert card.settings == {"reference_timestep": "zero", "trained_with": {"appearance": known}}
    train(third, data(), "three")


def test_part_of_the_wrong_stage_is_an_input_error(make, model):
    with pytest.raises(InputError, match="of the stage view_control; a part of appearance is needed"):
        make(2, appearance=str(model / CONTROL))
    with pytest.raises(InputError, match="of the stage appearance; a part of view_control is needed"):
        make(3, control=str(model / REFERENCE))
    with pytest.raises(InputError, match="no such checkpoint"):
        make(2, appearance=str(model / "nothing.ckpt"))


def test_part_at_another_reference_timestep_is_an_input_error(make, model, tmp_path):
    stage = AppearanceStage(backbone=str(model), reference_timestep="current")
    stage.export(tmp_path / "current")
    with pytest.raises(InputError, match="trained with F_ref at the zero timestep"):
        make(3, appearance=str(tmp_path / "current"))


@pytest.fixture
def another(make, tmp_path):
    """Exported parts of another run on the same backbone: F_ref, and F_cam trained with it."""
    stage = make(2)
    shake(stage.reference)
    reference = AppearanceStage(backbone=stage.hparams.backbone)
    reference.reference.load_state_dict(stage.reference.state_dict())
    reference.export(tmp_path / "f_ref")
    make(2, appearance=str(tmp_path / "f_ref")).export(tmp_path / "f_cam")
    return {"appearance": str(tmp_path / "f_ref"), "control": str(tmp_path / "f_cam")}


def test_parts_trained_with_other_parts_are_input_errors(make, another):
    with pytest.raises(InputError, match="f_cam was trained with another part of the stage appearance"):
        make(3, control=another["control"])
    with pytest.raises(InputError, match="trained with another part of the stage appearance"):
        make(3, appearance=another["appearance"])
    card = make(3, **another).card
    assert card.trained_with.keys() == {"appearance", "view_control"}


def test_resuming_with_another_reference_is_an_input_error(make, another, data, make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.fit(make(2), data())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    with pytest.raises(InputError, match="the checkpoint was trained with another part of the stage appear"):
        make_trainer().fit(
            make(2, appearance=another["appearance"]), data(), ckpt_path=str(tmp_path / "two.ckpt")
        )


def test_resuming_at_another_timestep_is_an_input_error(make_stage, make_data, make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_stage(), make_data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(InputError, match="trained with F_ref at the zero timestep, this run has current"):
        make_trainer().fit(
            make_stage(reference_timestep="current"), make_data(), ckpt_path=str(tmp_path / "one.ckpt")
        )


def rewrite(card, **settings):
    """Replace the settings in a card."""
    card.write_text(json.dumps(json.loads(card.read_text()) | {"settings": settings}))


def test_incomplete_cards_are_input_errors(make, another):
    card = Path(another["control"]) / CARD
    rewrite(card, reference_timestep="zero")
    make(3, control=another["control"])  # cards of older versions have no trained_with
    rewrite(card)
    with pytest.raises(InputError, match=r"f_cam: its card \(stage.json\) has reference_timestep None"):
        make(3, control=another["control"])
    card.write_text(json.dumps(json.loads(card.read_text()) | {"settings": []}))
    with pytest.raises(InputError, match="f_cam: not the card of a trained part"):
        make(3, control=another["control"])


@pytest.mark.parametrize("number", [2, 3])
def test_weights_only_checkpoint_loads_as_part_but_does_not_resume(
    number, make, data, make_trainer, tmp_path
):
    stage, path = make(number), str(tmp_path / "weights.ckpt")
    trainer = make_trainer(max_steps=2)
    trainer.fit(stage, data())
    trainer.save_checkpoint(path, weights_only=True)
    again = make(number)
    load_part(again.trained, path, stage.stage, stage.fingerprint)
    assert equal(again.trained.state_dict(), stage.trained.state_dict())
    with pytest.raises(InputError, match="the checkpoint holds only weights, and a run cannot be resumed"):
        make_trainer().fit(make(number), data(), ckpt_path=path)


def test_stage_3_shuffles_views(make, make_data, make_trainer):
    """3.4: views are shuffled anew each time; V with positional encodings depends on their order."""
    seen = {}

    class Orders(WeightAverage):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            for key, cameras in zip(batch["key"], batch["camera"], strict=True):
                seen.setdefault(key, []).append(tuple(cameras[:, 3].argsort().tolist()))

    stage, source = make(3, positions=4), make_data(conditions=True, batch_size=4)
    make_trainer(max_steps=12, callbacks=[Orders()]).fit(stage, source)
    orders = [order for some in seen.values() for order in some]
    assert len(set(orders)) == 6  # all permutations of three views
    assert all(len(set(some)) > 1 for some in seen.values())

    batch = source.samples(2)
    backwards = batch | {"condition": batch["condition"].flip(1)}
    latents, references = stage.encode(batch["target"]), stage.encode(batch["reference"])
    noise, timesteps = stage.fixed_draws(batch["key"], latents)

    @torch.no_grad()
    def both_ways(stage):
        forwards = stage.denoise(batch, references, latents, noise, timesteps)
        turned = stage.denoise(backwards, references, latents.flip(1), noise.flip(1), timesteps)
        return forwards, turned.flip(1)

    torch.testing.assert_close(*both_ways(make(3, positions=4)))  # an untrained V adds nothing
    shake(stage.trained, 0.2)
    assert not torch.allclose(*both_ways(stage), rtol=1e-3)


def test_split_views_match_single_views(make, make_data):
    """Split into rows of one view, each view has the loss that it has on its own."""
    stage = make(3)
    shake(stage.trained, 0.2)
    source = make_data(conditions=True, targets=2)
    source.setup("validate")
    batch = source.samples(2)
    assert split_views(batch, 2) is batch
    rows = split_views(batch, 1)
    assert rows["key"] == [key for key in batch["key"] for _ in range(2)]
    assert rows["camera"].shape[:2] == (4, 1)
    latents = stage.encode(batch["target"])
    noise, timesteps = stage.fixed_draws(batch["key"], latents)

    @torch.no_grad()
    def lost(batch, length):
        row = [x.unflatten(1, (-1, length)).flatten(0, 1) for x in (latents, noise, timesteps)]
        return stage.denoise(batch, stage.encode(batch["reference"]), *row).flatten()

    each, alone = lost(batch, 2), lost(rows, 1)
    assert not torch.allclose(each, alone, rtol=1e-3)  # with two views, V attends to the other
    for view in range(2):
        one = {
            name: x[:, view : view + 1] if name in ("target", "condition", "camera") else x
            for name, x in batch.items()
        }
        with torch.no_grad():
            chosen = (x[:, view : view + 1] for x in (latents, noise, timesteps))
            single = stage.denoise(one, stage.encode(one["reference"]), *chosen)
        torch.testing.assert_close(alone.view(2, 2)[:, view], single[:, 0], rtol=1e-3, atol=1e-4)


def test_fewer_views_draws_every_length(make, make_data, make_trainer):
    draws = [drawn_length(8, torch_generator("test", step)) for step in range(200)]
    assert {length: draws.count(length) > 10 for length in set(draws)} == dict.fromkeys((1, 2, 4, 8), True)
    assert 80 < draws.count(8) < 120
    assert drawn_length(1, torch_generator(0)) == 1

    seen = []
    stage = make(3, fewer_views=True)
    stage.denoiser.register_forward_hook(
        lambda module, _, given, __: seen.append(given["views"]) if module.training else None,
        with_kwargs=True,
    )
    make_trainer(max_steps=8).fit(stage, make_data(conditions=True, targets=2))
    assert set(seen) == {1, 2}


def test_part_of_another_backbone_is_an_input_error(make, tmp_path):
    other = toy_model()
    with torch.no_grad():
        other.backbone.unet.conv_in.weight.add_(1)
    save_portrait_model(other, str(tmp_path / "other"))
    with pytest.raises(InputError, match="another backbone"):
        make(2, appearance=str(tmp_path / "other" / REFERENCE))


@pytest.mark.parametrize("length", [1, 2])
def test_training_loss_does_not_depend_on_ranks(make, make_data, length):
    """Also if the views of a frame are split into rows, which draw their own noise."""
    stage, data = make(3, mirror=True), make_data(conditions=True, targets=2)
    shake(stage.trained, 0.2)
    data.setup("fit")

    @torch.no_grad()
    def loss(ranks):
        parts = [TrainBatches(data._stream(), 4 // ranks, rank, ranks).batch(0) for rank in range(ranks)]
        return torch.stack([stage.training_loss(split_views(part, length)) for part in parts]).mean()

    torch.testing.assert_close(loss(2), loss(1), rtol=1e-5, atol=1e-6)
    rows = split_views(TrainBatches(data._stream(), 2).batch(1), length)["position"].tolist()
    assert len(set(rows)) == 2 * 2 // length
