"""Stage 1: trained and frozen parts, loss, validation, checkpoints."""

import csv

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from callbacks.weight_average import WeightAverage
from core.errors import InputError
from core.seeding import stream_generators
from datamodules import SourceConfig
from datamodules.stream import TrainBatches
from lightning_modules.networks.pretrained import save_backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.optimization import Learning
from lightning_modules.parts import load_part, read_checkpoint
from lightning_modules.stage import mirrored
from lightning_modules.unloaded import BatchSize, empty_batch
from shards.builder import build
from tests.lightning_modules.recording import Losses, equal
from tests.networks.toy import noise, shake, toy_backbone
from tests.shards.fake_source import FakeSource


@pytest.fixture(scope="module")
def trained(make_trainer, make_stage, make_data, tmp_path_factory):
    """A stage after four steps, its checkpoint, and its weight average."""
    stage, folder = make_stage(), tmp_path_factory.mktemp("trained")
    keep = ModelCheckpoint(dirpath=folder, filename="stage1", every_n_train_steps=4)
    callbacks = [WeightAverage(0.5), keep]
    make_trainer(callbacks=callbacks, enable_checkpointing=True).fit(stage, make_data())
    return stage, folder / "stage1.ckpt", callbacks[0]


def test_training_changes_only_f_ref(make_trainer, make_stage, make_data):
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


def test_every_parameter_of_f_ref_gets_a_gradient(make_stage, several_tokens, make_trainer):
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


def test_frozen_parts_stay_in_eval_mode(make_stage):
    stage = make_stage().train()
    assert stage.reference.training
    assert not any(m.training for part in (stage.vae, stage.denoiser) for m in part.modules())


@pytest.mark.parametrize("reference_timestep", ["zero", "current"])
def test_loss_is_equation_1(make_stage, make_data, make_trainer, reference_timestep):
    """Against a plain implementation, one view at a time."""
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


def test_validation_draws_depend_only_on_the_frame(make_stage):
    stage = make_stage()
    latents = torch.zeros(2, 3, 4, 4, 4)
    noise, timesteps = stage.fixed_draws(["a", "b"], latents)
    again, steps_again = stage.fixed_draws(["b"], latents[:1])
    assert torch.equal(noise[1:], again)
    assert torch.equal(timesteps[1:], steps_again)
    assert sorted(timesteps[0].mul(3).div(1000, rounding_mode="floor").tolist()) == [0, 1, 2]
    shared = make_stage(reference_timestep="current").fixed_draws(["a", "b"], latents)[1]
    assert torch.equal(shared, shared[:, :1].expand(2, 3))


def test_validation_logs_the_reference_gain(make_stage, make_data, make_trainer):
    trainer = make_trainer(limit_val_batches=1.0)
    stage = make_stage()
    first = trainer.validate(stage, make_data(), verbose=False)[0]
    assert first == make_trainer(limit_val_batches=1.0).validate(stage, make_data(), verbose=False)[0]
    gain = first["val/loss_without_reference"] - first["val/loss"]
    assert first["val/reference_gain"] == pytest.approx(gain, abs=1e-6)
    assert gain != 0


def test_mirroring_flips_all_images_of_a_frame(make_data):
    data = make_data(conditions=True)
    data.setup("validate")
    batch = data.samples(4)
    flipped = mirrored(batch, stream_generators("mirror", range(4)))
    kinds = ("reference", "target", "condition")
    whole = [[torch.equal(flipped[k][i], batch[k][i].flip(-1)) for k in kinds] for i in range(4)]
    same = [[torch.equal(flipped[k][i], batch[k][i]) for k in kinds] for i in range(4)]
    assert all(all(w) or all(s) for w, s in zip(whole, same, strict=True))


def test_checkpoint_holds_only_the_trained_part(trained):
    stage, path, average = trained
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["state_dict"]) == {f"reference.{name}" for name in stage.reference.state_dict()}
    trained_count = sum(1 for _ in stage.reference.parameters())
    assert len(checkpoint["optimizer_states"][0]["state"]) == trained_count
    assert set(average.average) == {f"reference.{name}" for name, _ in stage.reference.named_parameters()}


def test_part_loads_averaged_weights_from_checkpoint_or_folder(trained, tmp_path):
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


def test_wrong_checkpoints_are_refused(trained, make_stage, make_data, make_trainer, tmp_path):
    stage, path, _ = trained
    part = AppearanceReference.from_unet(stage.denoiser.unet)
    with pytest.raises(InputError, match="of the stage appearance; a part of view_control is needed"):
        load_part(part, str(path), "view_control", stage.fingerprint)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_part(part, str(tmp_path / "nothing.ckpt"), "appearance", stage.fingerprint)
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(InputError, match="is truncated or no PyTorch file"):
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


def test_checkpoint_loads_outside_training(trained):
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
def test_memory_settings_do_not_change_losses(make_stage, make_data, make_trainer, change):
    def losses(**settings):
        recorded = Losses()
        stage = make_stage(learning=Learning(1e-3), **settings)
        make_trainer(max_steps=3, callbacks=[recorded]).fit(stage, make_data())
        return list(recorded.by_step.values())

    assert losses(**change) == pytest.approx(losses(), rel=1e-4)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("reference_timestep", ["zero", "current"])
def test_training_loss_does_not_depend_on_ranks(make_stage, make_data, world_size, reference_timestep):
    data = make_data()
    data.setup("fit")
    stage = make_stage(mirror=True, timestep_shift=3.0, reference_timestep=reference_timestep)
    shake(stage.reference)

    @torch.no_grad()
    def losses(ranks):
        parts = [TrainBatches(data._stream(), 4 // ranks, rank, ranks) for rank in range(ranks)]
        return [torch.stack([stage.training_loss(part.batch(step)) for part in parts]) for step in range(3)]

    for alone, together in zip(losses(1), losses(world_size), strict=True):
        assert together.unique().numel() == world_size
        torch.testing.assert_close(together.mean(), alone.squeeze(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_validation_does_not_depend_on_the_batch_size(make_stage, make_data, make_trainer, batch_size):
    """The other person comes from the whole validation set, so that batches of one have one too."""
    stage = make_stage()
    shake(stage.reference)
    both = [
        make_trainer(limit_val_batches=1.0).validate(stage, make_data(batch_size=size), verbose=False)[0]
        for size in (4, batch_size)
    ]
    assert (
        both[0].keys() == both[1].keys() >= {"val/loss", "val/reference_gain", "val/loss_without_reference"}
    )
    for name, value in both[0].items():
        assert both[1][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_validation_set_of_one_person_has_no_gain(make_stage, make_trainer, make_data, tmp_path):
    build(FakeSource(1, 2, views=4, size=16), tmp_path / "one", 0)
    data = make_data(sources={"one": SourceConfig(str(tmp_path / "one"))}, val_frames=2)
    measured = make_trainer(limit_val_batches=1.0).validate(make_stage(), data, verbose=False)[0]
    assert "val/loss" in measured
    assert not [name for name in measured if "reference" in name]


@pytest.mark.slow
def test_two_ranks_match_one_rank(make_stage, make_data, make_trainer, tmp_path):
    """Three validation frames on two ranks: one of them pads its share."""
    rows = []
    for count, strategy in ((1, "auto"), (2, "ddp_spawn")):
        trainer = make_trainer(
            devices=count,
            strategy=strategy,
            max_steps=2,
            logger=CSVLogger(tmp_path, name=f"ranks{count}"),
            log_every_n_steps=1,
            limit_val_batches=1.0,
            val_check_interval=2,
        )
        trainer.fit(make_stage(mirror=True), make_data(val_frames=3, batch_size=2 // count))
        with (tmp_path / f"ranks{count}" / "version_0" / "metrics.csv").open() as file:
            found = csv.DictReader(file)
            rows.append([{k: float(v) for k, v in row.items() if v and "/" in k} for row in found])
    assert {"train/loss", "val/loss", "val/reference_gain"} <= {name for row in rows[0] for name in row}
    for alone, together in zip(*rows, strict=True):
        assert together == pytest.approx(alone, rel=1e-4)


def test_bfloat16_frozen_parts_match_autocast(make_stage):
    """Bit for bit: the weights are rounded once instead of at each use."""
    losses = []
    for dtype in ("float32", "bfloat16"):
        stage = make_stage(frozen_dtype=dtype)
        batch = empty_batch(stage, BatchSize(2, 1, 3, 16), torch.device("cpu"))
        batch["target"] = noise(*batch["target"].shape)
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(stage.training_loss(batch))
    assert torch.equal(*losses)
    assert (
        stage.vae.encoder.conv_in.weight.dtype == stage.denoiser.unet.conv_in.weight.dtype == torch.bfloat16
    )
    assert stage.denoiser.unet.conv_norm_out.weight.dtype == torch.float32
    assert {p.dtype for p in stage.trained.parameters()} == {torch.float32}


def test_bfloat16_frozen_parts_need_mixed_precision(make_stage, make_data, make_trainer):
    with pytest.raises(InputError, match="bf16-mixed, not 32-true"):
        make_trainer().fit(make_stage(frozen_dtype="bfloat16"), make_data())
