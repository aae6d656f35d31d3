"""The callback on a toy stage: what it logs, what it draws, and that training does not notice it."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from callbacks import evaluation
from callbacks.evaluation import Evaluation, logged
from lightning_modules.networks.view_control import view_control
from shards.errors import InputError
from tests.faces import FlatRenderer

METRICS = ("PSNR", "SSIM")


def fit(make_trainer, make_stage, make_data, callbacks, **options):
    trainer = make_trainer(
        max_steps=2, limit_val_batches=1, val_check_interval=1, callbacks=callbacks, **options
    )
    stage = make_stage()
    trainer.fit(stage, make_data())
    return trainer, stage


def test_scores_and_media(make_trainer, make_stage, make_data, tmp_path):
    callback = Evaluation(frames=2, views=2, steps=1, metrics=[*METRICS, "POSE"])
    trainer, _ = fit(make_trainer, make_stage, make_data, [callback], logger=CSVLogger(tmp_path, name="run"))
    values = trainer.callback_metrics
    for name in METRICS:
        assert torch.isfinite(values[logged(name)])
    assert values[logged("POSE_failures")] == 4
    assert values["val/evaluation_seconds"] > 0
    folder = Path(trainer.log_dir) / "evaluation"
    assert len(list(folder.glob("grid-*.png"))) == 2
    assert Image.open(callback.last["grid"]).size == (2 * 16 * (1 + 2 * 2), 2 * 16 * 2)
    rows = list(csv.DictReader(callback.last["table"].open()))
    assert len(rows) == 4
    mean = sum(float(row["PSNR"]) for row in rows) / 4
    assert mean == pytest.approx(float(values[logged("PSNR")]), abs=1e-3)
    logs = (Path(trainer.log_dir) / "metrics.csv").read_text()
    assert "val/novel_view/SSIM" in logs.splitlines()[0]


def test_every_other_validation(make_trainer, make_stage, make_data, tmp_path):
    callback = Evaluation(frames=1, views=1, steps=1, metrics=["PSNR"], every_n_validations=2)
    trainer, _ = fit(make_trainer, make_stage, make_data, [callback], logger=CSVLogger(tmp_path))
    assert len(list((Path(trainer.log_dir) / "evaluation").glob("grid-*.png"))) == 1


def test_training_does_not_notice_it(make_trainer, make_stage, make_data):
    callback = Evaluation(frames=2, views=1, steps=1, metrics=["PSNR"])
    weights = [
        fit(make_trainer, make_stage, make_data, callbacks)[1].state_dict() for callbacks in ([], [callback])
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_w_and_b_is_told_the_step_and_the_direction(make_trainer, make_stage, make_data, tmp_path):
    logger = WandbLogger(save_dir=tmp_path, offline=True, log_model=False)
    callback = Evaluation(frames=1, views=2, steps=1, metrics=METRICS)
    trainer, _ = fit(make_trainer, make_stage, make_data, [callback], logger=logger)
    keys = set(logger.experiment.summary.keys())
    assert "media/appearance/grid" in keys
    assert "media/appearance/views" in keys
    assert trainer.callback_metrics[logged("PSNR")] > 0
    logger.experiment.finish()


def test_an_orbit_where_there_is_a_camera(make_trainer, make_stage, make_data, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "prepare_renderer", lambda _: FlatRenderer())
    callback = Evaluation(frames=1, views=2, steps=1, metrics=["PSNR"], orbit_views=3)
    logger = CSVLogger(tmp_path, name="run")
    trainer = make_trainer(
        max_steps=1, limit_val_batches=1, val_check_interval=1, callbacks=[callback], logger=logger
    )
    stage = make_stage()
    stage.denoiser.control = view_control(stage.denoiser.unet, 4)
    trainer.fit(stage, make_data(conditions=True))
    assert callback.last["orbit"].stat().st_size > 0
    assert Image.open(callback.last["grid"]).width == 2 * 16 * (1 + 2 * 3)


def test_what_cannot_be_is_one_line(make_trainer):
    with pytest.raises(InputError, match="frames is 0"):
        Evaluation(frames=0)
    trainer = make_trainer()
    with pytest.raises(InputError, match="cannot be sampled"):
        Evaluation().setup(trainer, torch.nn.Linear(1, 1), "fit")
