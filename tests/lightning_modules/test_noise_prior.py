"""Training of S: losses, mirroring, validation, pictures, checkpoints, export, resuming."""

import json

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from core.errors import InputError
from core.model_folders import load_model
from core.seeding import torch_generator
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.noise_prior import NoisePriorStage, mirrored, mirrored_labels, psnr
from lightning_modules.optimization import Learning
from portraits.cameras import label, label_from_angles, look_at, project
from tests.lightning_modules.recording import equal
from tests.lightning_modules.test_resume import LEARNING, STEPS, interrupted, run
from tests.networks.toy import toy_prior


def make_prior(**change) -> NoisePriorStage:
    return NoisePriorStage(toy_prior(), **{"learning": LEARNING, **change})


def test_mirrored_camera_projects_mirrored_points() -> None:
    intrinsics = np.array([[3.0, 0.2, 0.45], [0.0, 4.0, 0.55], [0.0, 0.0, 1.0]])
    camera = label(look_at((0.5, 0.7, 2.4), roll=0.3), intrinsics)
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (5, 3))
    seen = project(points, camera)
    other = mirrored_labels(torch.from_numpy(camera)).numpy()
    assert np.allclose(project(points * (-1, 1, 1), other), np.array([1, 0]) + seen * (-1, 1), atol=1e-6)


def test_mirrored_camera_has_the_opposite_yaw() -> None:
    camera = torch.from_numpy(label_from_angles(0.4, 0.2))
    opposite = torch.from_numpy(label_from_angles(-0.4, 0.2))
    assert torch.allclose(mirrored_labels(camera), opposite, atol=1e-6)


def test_mirroring_flips_images_and_cameras_together(make_data) -> None:
    data = make_data()
    data.setup("fit")
    batch = data.samples(4)
    turned = mirrored(batch, [torch_generator(place) for place in range(4)])
    flipped = [not torch.equal(a, b) for a, b in zip(turned["camera"], batch["camera"], strict=True)]
    assert any(flipped)
    assert not all(flipped)
    for name in ("reference", "target"):
        for row, was, flip in zip(turned[name], batch[name], flipped, strict=True):
            assert torch.equal(row, was.flip(-1) if flip else was)


def test_psnr_of_a_known_error() -> None:
    images = torch.zeros(2, 3, 3, 4, 4)
    targets = images + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1, 1)
    assert torch.allclose(psnr(images, targets), torch.tensor([20.0, 40.0]), atol=1e-3)


@pytest.mark.parametrize("at", [2, 3])
def test_resume_repeats_losses_and_weights(make_trainer, make_data, tmp_path, at) -> None:
    def data():
        return make_data(references=2, targets=2)

    module = make_prior(mirror=True)
    losses, average = run(make_trainer, module, data(), [])
    resumed = interrupted(make_trainer, lambda: make_prior(mirror=True), data, tmp_path / "kept", at)
    assert len(losses) == STEPS
    assert resumed[0] == losses
    assert equal(resumed[1], module.state_dict())
    assert equal(resumed[2], average)


def test_loss_decreases_on_one_batch(make_trainer, make_data) -> None:
    module = make_prior(learning=Learning(5e-3))
    losses, _ = run(make_trainer, module, make_data(batch_size=4), [], overfit_batches=1)
    values = list(losses.values())
    assert values[-1] < values[0]


def test_validation_is_deterministic(make_trainer, make_data) -> None:
    module = make_prior()
    trainer = make_trainer(limit_val_batches=None)
    first, second = (
        trainer.validate(module, make_data(references=2, targets=2), verbose=False)[0] for _ in range(2)
    )
    assert first == second
    assert first.keys() == {"val/loss", "val/PSNR", "val/PSNR_reference", "val/PSNR_all"}
    assert first["val/PSNR"] != first["val/PSNR_all"]


def test_pictures_show_portrait_target_proxy_and_depth(make_data) -> None:
    data = make_data()
    data.setup("fit")
    batch = data.samples(2)
    shown = make_prior().pictures(batch)["proxies"]
    assert shown.shape == (2, 1 + 3 * 3, 3, 16, 16)
    assert shown.abs().max() <= 1
    assert torch.equal(shown[:, 0], batch["reference"][:, 0])
    assert torch.equal(shown[:, 1], batch["target"][:, 0])


def test_export_writes_a_part_with_its_card(tmp_path) -> None:
    module = make_prior()
    module.export(tmp_path / "noise_prior")
    card = json.loads((tmp_path / "noise_prior" / "stage.json").read_text())
    assert (card["stage"], card["backbone"]) == ("noise_prior", "")
    assert card["settings"] == {"perceptual": "efficientnet-lite0"}
    load_model(NoisePrior, tmp_path / "noise_prior")
    with pytest.raises(InputError, match="exists already"):
        module.export(tmp_path / "noise_prior")


def test_run_name_must_match_the_perceptual_weights(make_trainer, make_data, tmp_path) -> None:
    def fit(name: str) -> None:
        make_trainer(max_steps=1, logger=CSVLogger(str(tmp_path), name=name)).fit(make_prior(), make_data())

    with pytest.raises(InputError, match="called S-vgg16, but its perceptual loss is efficientnet-lite0"):
        fit("S-vgg16")
    fit("S-efficientnet-lite0")
    fit("S")


def test_checkpoint_holds_only_the_prior_and_others_are_refused(make_trainer, make_data, tmp_path) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_prior(), make_data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert all(name.startswith("prior.") for name in checkpoint["state_dict"])
    with pytest.raises(InputError, match="of the stage appearance"):
        make_prior().on_load_checkpoint(
            checkpoint | {"diffportrait3d": checkpoint["diffportrait3d"] | {"stage": "appearance"}}
        )
    missing = dict(list(checkpoint["state_dict"].items())[1:])
    with pytest.raises(InputError, match="missing"):
        make_prior().on_load_checkpoint(checkpoint | {"state_dict": missing})
