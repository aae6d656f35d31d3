"""Stage 1: what is trained, what is not, what the loss and the validation are, what a checkpoint holds."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.weight_average import WeightAverage
from core.errors import InputError
from core.seeding import torch_generator
from lightning_modules.networks.pretrained import save_backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.optimization import Learning
from lightning_modules.parts import load_part, read_checkpoint
from lightning_modules.stage import mirrored, others
from tests.lightning_modules.recording import Losses, equal
from tests.networks.toy import shake, toy_backbone


@pytest.fixture
def trained(make_trainer, make_stage, make_data, tmp_path):
    """A stage after four steps, and its checkpoint."""
    stage = make_stage()
    keep = ModelCheckpoint(dirpath=tmp_path, filename="stage1", every_n_train_steps=4)
    callbacks = [WeightAverage(0.5), keep]
    make_trainer(callbacks=callbacks, enable_checkpointing=True).fit(stage, make_data())
    return stage, tmp_path / "stage1.ckpt", callbacks[0]


def test_only_f_ref_changes_and_only_it_has_gradients(make_trainer, make_stage, make_data):
    stage = make_stage()
    before = {name: x.clone() for name, x in stage.state_dict().items()}
    make_trainer(max_steps=2).fit(stage, make_data())
    after = stage.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"reference"}
    assert all(torch.equal(before[n], after[n]) for n in after if not n.startswith("reference."))
    for name, parameter in stage.named_parameters():
        assert parameter.requires_grad == name.startswith("reference.")
        assert name.startswith("reference.") or parameter.grad is None


def test_every_parameter_of_f_ref_learns(make_stage, several_tokens, make_trainer):
    seen = {}

    class Gradients(WeightAverage):
        def on_after_backward(self, trainer, pl_module):
            for name, parameter in pl_module.reference.named_parameters():
                seen[name] = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)

    parts, data = several_tokens
    stage = make_stage(backbone=parts["backbone"])
    make_trainer(max_steps=1, callbacks=[Gradients()]).fit(stage, data)
    assert seen
    assert all(seen.values()), [name for name, learns in seen.items() if not learns]


def test_the_frozen_parts_stay_in_eval_mode(make_stage):
    stage = make_stage().train()
    assert stage.reference.training
    assert not any(m.training for part in (stage.vae, stage.denoiser) for m in part.modules())


@pytest.mark.parametrize("reference_timestep", ["zero", "current"])
def test_the_loss_is_eq_1(make_stage, make_data, make_trainer, reference_timestep):
    """Against the same written out a view at a time."""
    stage, data = make_stage(reference_timestep=reference_timestep), make_data()
    shake(stage.reference)
    make_trainer(max_steps=1).fit(stage, data)
    batch = data.samples(2)
    with torch.no_grad():
        latents, references = stage.encode(batch["target"]), stage.encode(batch["reference"])
        noise, timesteps = stage.fixed_draws(batch["key"], latents)
        losses = stage.denoise(batch, references, latents, noise, timesteps)
        alphas = stage.scheduler.alphas_cumprod
        for b in range(2):
            for v in range(3):
                t = timesteps[b, v : v + 1]
                noised = alphas[t].sqrt() * latents[b, v] + (1 - alphas[t]).sqrt() * noise[b, v]
                seen = t if reference_timestep == "current" else torch.zeros_like(t)
                bank = stage.reference(references[b : b + 1], seen, stage.denoiser.empty_prompt)
                predicted = stage.denoiser(noised[None], t, bank)
                expected = (predicted - noise[b, v]).square().mean()
                torch.testing.assert_close(losses[b, v], expected, rtol=1e-4, atol=1e-5)


def test_validation_draws_depend_on_the_frame_alone(make_stage):
    stage = make_stage()
    latents = torch.zeros(2, 3, 4, 4, 4)
    noise, timesteps = stage.fixed_draws(["a", "b"], latents)
    again, steps_again = stage.fixed_draws(["b"], latents[:1])
    assert torch.equal(noise[1:], again)
    assert torch.equal(timesteps[1:], steps_again)
    assert sorted(timesteps[0].mul(3).div(1000, rounding_mode="floor").tolist()) == [0, 1, 2]
    shared = make_stage(reference_timestep="current").fixed_draws(["a", "b"], latents)[1]
    assert torch.equal(shared, shared[:, :1].expand(2, 3))


def test_validation_says_what_the_reference_is_worth(make_stage, make_data, make_trainer):
    trainer = make_trainer(limit_val_batches=1.0)
    stage = make_stage()
    first = trainer.validate(stage, make_data(), verbose=False)[0]
    assert first == make_trainer(limit_val_batches=1.0).validate(stage, make_data(), verbose=False)[0]
    gain = first["val/loss_without_reference"] - first["val/loss"]
    assert first["val/reference_gain"] == pytest.approx(gain, abs=1e-6)
    assert gain != 0


def test_mirrored_frames_are_mirrored_whole(make_data):
    data = make_data(conditions=True)
    data.setup("validate")
    batch = data.samples(4)
    flipped = mirrored(batch, torch_generator("mirror"))
    kinds = ("reference", "target", "condition")
    whole = [[torch.equal(flipped[k][i], batch[k][i].flip(-1)) for k in kinds] for i in range(4)]
    same = [[torch.equal(flipped[k][i], batch[k][i]) for k in kinds] for i in range(4)]
    assert all(all(w) or all(s) for w, s in zip(whole, same, strict=True))


def test_a_partner_is_another_person():
    assert others(["a", "a", "b", "c"]).tolist() == [2, 2, 3, 0]
    assert others(["a", "a"]).tolist() == [0, 1]
    assert others(["a"]).tolist() == [0]


def test_a_checkpoint_holds_the_trained_part_alone(trained):
    stage, path, average = trained
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["state_dict"]) == {f"reference.{name}" for name in stage.reference.state_dict()}
    trained_count = sum(1 for _ in stage.reference.parameters())
    assert len(checkpoint["optimizer_states"][0]["state"]) == trained_count
    assert set(average.average) == {f"reference.{name}" for name, _ in stage.reference.named_parameters()}


def test_the_next_stage_takes_the_average_from_checkpoint_or_folder(trained, tmp_path):
    stage, path, average = trained
    assert not torch.equal(average.average["reference.conv_in.weight"], stage.reference.conv_in.weight)
    from_checkpoint = AppearanceReference.from_unet(stage.denoiser.unet)
    card = load_part(from_checkpoint, str(path), "appearance", stage.fingerprint)
    assert card.settings == {"reference_timestep": "zero"}
    expected = {name.removeprefix("reference."): x for name, x in average.average.items()}
    assert equal(from_checkpoint.state_dict(), expected)
    with average.averaged(stage):
        stage.export(tmp_path / "part")
    from_folder = AppearanceReference.from_unet(stage.denoiser.unet)
    assert load_part(from_folder, str(tmp_path / "part"), "appearance", stage.fingerprint) == card
    assert equal(from_folder.state_dict(), {name: x.half().float() for name, x in expected.items()})


def test_what_does_not_belong_is_refused(trained, make_stage, make_data, make_trainer, tmp_path):
    stage, path, _ = trained
    part = AppearanceReference.from_unet(stage.denoiser.unet)
    with pytest.raises(InputError, match="of the stage appearance; the stage view_control is wanted"):
        load_part(part, str(path), "view_control", stage.fingerprint)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_part(part, str(tmp_path / "nothing.ckpt"), "appearance", stage.fingerprint)
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint of this project"):
        load_part(part, str(tmp_path / "text.ckpt"), "appearance", stage.fingerprint)
    other = toy_backbone()
    shake(other.unet)
    save_backbone(other, str(tmp_path / "other"))
    with pytest.raises(InputError, match="trained on another backbone"):
        make_trainer().fit(make_stage(backbone=str(tmp_path / "other")), make_data(), ckpt_path=str(path))


def test_missing_and_unexpected_names_are_listed(trained, make_stage):
    _, path, _ = trained
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["reference.extra"] = checkpoint["state_dict"].pop("reference.conv_in.bias")
    with pytest.raises(InputError, match=r"missing reference\.conv_in\.bias; unexpected reference\.extra"):
        make_stage().on_load_checkpoint(checkpoint)


def test_a_checkpoint_loads_outside_training(trained):
    stage, path, _ = trained
    card, tensors = read_checkpoint(path)
    assert (card.stage, card.part, card.backbone) == ("appearance", "reference", stage.fingerprint)
    loaded = type(stage).load_from_checkpoint(path, weights_only=True)
    assert equal(loaded.state_dict(), stage.state_dict())
    assert tensors.keys() == stage.reference.state_dict().keys()


def test_pictures_are_reference_target_sample(make_stage, make_data):
    data = make_data()
    data.setup("validate")
    batch = data.samples(2)
    pictures = make_stage().pictures(batch)["samples"]
    assert pictures.shape == (2, 3, 3, 16, 16)
    assert pictures.abs().max() <= 1
    assert torch.equal(pictures[:, 0], batch["reference"][:, 0])
    assert torch.equal(pictures[:, 1], batch["target"][:, 0])


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"encode_batch": 1}])
def test_memory_settings_change_no_number(make_stage, make_data, make_trainer, change):
    def losses(**settings):
        recorded = Losses()
        stage = make_stage(learning=Learning(1e-3), **settings)
        make_trainer(max_steps=3, callbacks=[recorded]).fit(stage, make_data())
        return list(recorded.by_step.values())

    assert losses(**change) == pytest.approx(losses(), rel=1e-4)
