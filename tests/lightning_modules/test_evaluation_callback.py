"""The evaluation callback on toy stages: scores, pictures, loggers, and no effect on training."""

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from callbacks import evaluation
from callbacks.evaluation import Evaluation, worst_view_sheet
from callbacks.pictures import Pictures
from core.errors import InputError
from lightning_modules.networks.view_control import view_control
from lightning_modules.noise_prior import NoisePriorStage
from metrics.suite import MetricSuite
from portraits.cameras import label_from_angles
from tests.faces import FlatRenderer
from tests.networks.toy import toy_prior

METRICS = ("PSNR", "SSIM")


def logged(name):
    return f"val/novel_view/{name}"


def fit(make_trainer, make_stage, make_data, callbacks, **options):
    trainer = make_trainer(
        **{"max_steps": 2, "limit_val_batches": 1, "val_check_interval": 1, "callbacks": callbacks, **options}
    )
    stage = make_stage()
    trainer.fit(stage, make_data())
    return trainer, stage


def test_scores_pictures_and_tables_are_written(make_trainer, make_stage, make_data, tmp_path):
    callback = Evaluation(frames=2, views=2, steps=1, metrics=[*METRICS, "POSE[mtcnn-5]"])
    trainer, _ = fit(make_trainer, make_stage, make_data, [callback], logger=CSVLogger(tmp_path, name="run"))
    values = trainer.callback_metrics
    for name in METRICS:
        assert torch.isfinite(values[logged(name)])
    assert values[logged("POSE[mtcnn-5]_failures")] == 4
    assert values["val/evaluation_seconds"] > 0
    folder = Path(trainer.log_dir) / "evaluation"
    for kind in ("grid", "worst"):
        assert len(list(folder.glob(f"{kind}-*.png"))) == 2
    assert Image.open(callback.last["grid"]).size == (2 * 16 * (1 + 2 * 2), 2 * 16 * 2)
    rows = list(csv.DictReader(callback.table.open()))
    assert len(rows) == 4
    mean = sum(float(row["PSNR"]) for row in rows) / 4
    assert mean == pytest.approx(float(values[logged("PSNR")]), abs=1e-3)
    logs = (Path(trainer.log_dir) / "metrics.csv").read_text()
    assert "val/novel_view/SSIM" in logs.splitlines()[0]


def test_scores_are_computed_on_the_cpu_where_the_gpu_lacks_float64(monkeypatch):
    monkeypatch.setattr("core.devices.NO_FLOAT64", ("meta",))  # a device on which nothing can be scored
    callback, images = Evaluation(metrics=["SSIM"]), torch.zeros(1, 2, 3, 16, 16)
    callback._suite = MetricSuite(("SSIM",))
    batch = {"target": images, "camera": torch.from_numpy(label_from_angles(0.0, 0.0)).expand(1, 2, 25)}
    assert callback._score(images, batch, torch.device("meta"))["SSIM"].tolist() == [1.0, 1.0]


def test_every_n_validations(make_trainer, make_stage, make_data, tmp_path):
    callback = Evaluation(frames=1, views=1, steps=1, metrics=["PSNR"], every_n_validations=2)
    trainer, _ = fit(make_trainer, make_stage, make_data, [callback], logger=CSVLogger(tmp_path))
    assert len(list((Path(trainer.log_dir) / "evaluation").glob("grid-*.png"))) == 1


def test_pictures_and_tables_are_written_atomically(
    make_trainer, make_stage, make_data, tmp_path, monkeypatch
):
    named = replacements(monkeypatch)
    callback = Evaluation(frames=1, views=1, steps=1, metrics=["PSNR"])
    fit(make_trainer, make_stage, make_data, [callback], logger=CSVLogger(tmp_path), max_steps=1)
    assert {"grid-0000001.png", "worst-0000001.png", "views-0000001.csv"} <= set(named)
    assert not list(tmp_path.rglob("*.partial"))


def replacements(monkeypatch):
    """The names of files that appear by an atomic rename from now on."""
    named = []
    replace = os.replace

    def spy(source, target):
        named.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    return named


def test_evaluation_does_not_change_training(make_trainer, make_stage, make_data):
    callback = Evaluation(frames=2, views=1, steps=1, metrics=["PSNR"])
    weights = [
        fit(make_trainer, make_stage, make_data, callbacks)[1].state_dict() for callbacks in ([], [callback])
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.fixture
def wandb_logger(tmp_path):
    """A W&B logger whose run is finished after the test; a later logger would continue it."""
    logger = WandbLogger(save_dir=tmp_path, offline=True, log_model=False)
    yield logger
    logger.experiment.finish()


def test_wandb_metrics_have_step_and_direction(
    make_trainer, make_stage, make_data, wandb_logger, monkeypatch
):
    logger, defined = wandb_logger, {}
    define = logger.experiment.define_metric

    def spy(name, **options):
        assert name not in defined
        defined[name] = options
        return define(name, **options)

    monkeypatch.setattr(logger.experiment, "define_metric", spy)
    callback = Evaluation(frames=1, views=2, steps=1, metrics=[*METRICS, "POSE[mtcnn-5]"])
    callbacks = [callback, Pictures(items=1)]
    trainer, _ = fit(make_trainer, make_stage, make_data, callbacks, logger=logger)
    best = {name: options["summary"] for name, options in defined.items()}
    assert best[logged("PSNR")] == best["val/reference_gain"] == "max,last"
    assert (
        best[logged("POSE[mtcnn-5]")]
        == best[logged("POSE[mtcnn-5]_failures")]
        == best["val/loss"]
        == "min,last"
    )
    assert "val/loss_without_reference" not in best
    assert "val/evaluation_seconds" not in best
    assert {options["step_metric"] for options in defined.values()} == {"trainer/global_step"}
    keys = set(logger.experiment.summary.keys())
    # media are grouped by stage
    assert {f"media/appearance/{name}" for name in ("grid", "worst", "views", "samples")} <= keys
    assert trainer.callback_metrics[logged("PSNR")] > 0


class FakeWriter:
    """TensorBoard's SummaryWriter for images and texts."""

    def __init__(self):
        self.shown = Counter()

    def add_image(self, name, pixels, step, dataformats):
        assert dataformats == "HWC"
        assert pixels.shape[2] == 3
        self.shown[name, step] += 1

    def add_text(self, name, text, step):
        assert "| key | view | yaw | PSNR |" in text
        self.shown[name, step] += 1


class FakeTensorBoardLogger(TensorBoardLogger):
    """A TensorBoardLogger without the TensorBoard package."""

    def __init__(self, folder):
        self.board, self._folder = FakeWriter(), str(folder)

    experiment = property(lambda self: self.board)
    log_dir = save_dir = root_dir = property(lambda self: self._folder)
    name = version = "x"

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *arguments, **options):
        pass

    def log_graph(self, *arguments, **options):
        pass

    def save(self):
        pass

    def finalize(self, status):
        pass


def test_tensorboard_gets_pictures_and_text(make_trainer, make_stage, make_data, tmp_path):
    logger = FakeTensorBoardLogger(tmp_path)
    callback = Evaluation(frames=1, views=1, steps=1, metrics=["PSNR"])
    fit(make_trainer, make_stage, make_data, [callback], logger=logger)
    kinds = ("grid", "worst", "views")
    assert logger.board.shown == {(f"media/appearance/{kind}", step): 1 for kind in kinds for step in (1, 2)}


def test_noise_prior_is_scored_by_its_proxies(make_trainer, make_data, tmp_path, monkeypatch):
    named = replacements(monkeypatch)
    callback = Evaluation(frames=2, views=2, metrics=["PSNR"], orbit_views=3)
    logger = CSVLogger(tmp_path, name="run")
    trainer = make_trainer(
        max_steps=1, limit_val_batches=1, val_check_interval=1, callbacks=[callback], logger=logger
    )
    stage = NoisePriorStage(toy_prior())
    trainer.fit(stage, make_data(references=2, targets=2, conditions=True))
    batch = trainer.datamodule.samples(2)
    made = stage.prior(batch["reference"][:, :1], batch["camera"]).detach().clamp(-1, 1)
    error = (made - batch["target"]).div(2).square().mean((2, 3, 4))
    expected = float(-10 * error.log10().mean())
    assert float(trainer.callback_metrics[logged("PSNR")]) == pytest.approx(expected, abs=1e-3)
    assert callback.last["orbit"].stat().st_size > 0
    assert "orbit-0000001.mp4" in named
    # S takes no conditions, and none are shown
    assert Image.open(callback.last["grid"]).width == 2 * 16 * (1 + 2 * 2)


def test_orbit_is_written_when_the_model_takes_cameras(
    make_trainer, make_stage, make_data, tmp_path, monkeypatch
):
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


def test_invalid_settings_are_input_errors(make_trainer):
    with pytest.raises(InputError, match="frames is 0"):
        Evaluation(frames=0)
    trainer = make_trainer()
    with pytest.raises(InputError, match="cannot be sampled"):
        Evaluation().setup(trainer, torch.nn.Linear(1, 1), "fit")


def test_worst_views_are_sorted_with_nan_first():
    rows = [["key", "view", "yaw", "PSNR"], ["a", 0, 0.0, 30.0], ["b", 0, 0.0, 10.0], ["c", 0, 0.0, np.nan]]
    shades = (10, 20, 30)
    images = {"sample": [Image.new("RGB", (8, 8), (shade,) * 3) for shade in shades]}
    sheet = worst_view_sheet(rows, images, {"PSNR": True})
    column = [sheet.getpixel((64, y))[0] for y in range(sheet.height)]
    assert [shade for shade in dict.fromkeys(column) if shade in shades] == [30, 20, 10]


def test_validation_interval_survives_resuming(make_trainer, make_stage, make_data, tmp_path):
    def run(steps, checkpoint=None):
        callback = Evaluation(frames=1, views=1, steps=1, metrics=["PSNR"], every_n_validations=2)
        trainer = make_trainer(
            max_steps=steps,
            limit_val_batches=1,
            val_check_interval=1,
            callbacks=[callback],
            logger=CSVLogger(tmp_path, version="run"),
        )
        trainer.fit(make_stage(), make_data(), ckpt_path=checkpoint)
        return trainer

    run(1).save_checkpoint(tmp_path / "one.ckpt")
    folder = Path(run(3, str(tmp_path / "one.ckpt")).log_dir) / "evaluation"
    assert sorted(path.name for path in folder.glob("grid-*")) == ["grid-0000001.png", "grid-0000003.png"]


def test_small_fid_is_noted_once_per_run(make_trainer, make_stage, make_data, caplog, recwarn):
    metrics = ["PSNR", "FID[efficientnet-lite0]"]
    callback = Evaluation(frames=2, views=2, steps=1, metrics=metrics)
    with caplog.at_level("INFO"):
        trainer, _ = fit(make_trainer, make_stage, make_data, [callback])
    assert logged("FID[efficientnet-lite0]") in trainer.callback_metrics
    notes = [record.message for record in caplog.records if "biased upwards" in record.message]
    assert len(notes) == 1
    assert "over 4 images" in notes[0]
    assert not [warning for warning in recwarn if "biased" in str(warning.message)]


@pytest.mark.slow
def test_two_ranks_match_one_rank(make_trainer, make_stage, make_data, tmp_path):
    def scores(name, frames, **options):
        # 3 frames over 2 ranks: unequal shares; the second validation logs no scores
        metrics = [*METRICS, "POSE[mtcnn-5]", "KID[efficientnet-lite0]"]
        callback = Evaluation(frames=frames, views=1, steps=1, metrics=metrics, every_n_validations=2)
        logger = CSVLogger(tmp_path, name=name)
        fit(make_trainer, make_stage, make_data, [callback], logger=logger, max_steps=2, **options)
        rows = csv.DictReader((tmp_path / name / "version_0/metrics.csv").open())
        values = next(row for row in rows if row[logged("PSNR")])
        assert (tmp_path / name / "version_0/evaluation/grid-0000001.png").is_file()
        return {key: float(value) for key, value in values.items() if key.startswith("val/novel_view/")}

    alone = scores("one", frames=3)
    both = scores("two", frames=3, devices=2, strategy="ddp_spawn")
    assert alone.keys() == both.keys()
    assert both[logged("POSE[mtcnn-5]_failures")] == 3
    # after one training step, on other batches
    assert both[logged("SSIM")] == pytest.approx(alone[logged("SSIM")], abs=0.02)
    # at least one frame per rank
    assert scores("more", frames=1, devices=2, strategy="ddp_spawn")[logged("POSE[mtcnn-5]_failures")] == 2
