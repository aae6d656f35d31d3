"""The `fit` command: runs, resuming, errors, loggers, and where results are."""

import csv
import signal
from pathlib import Path

import pytest
import torch
import wandb
import yaml
from lightning_fabric.loggers import tensorboard

from core.errors import InputError
from lightning_modules import loggers
from lightning_modules.fit import check_arguments, main
from lightning_modules.loggers import LogWriter, logged_in, reserve_version, wandb_logger
from lightning_modules.parts import check_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def config(tmp_path, backbone, capture):
    """`configs/stage1.yaml` at toy size, as a file."""
    values = yaml.safe_load((ROOT / "configs" / "stage1.yaml").read_text())
    values["model"]["init_args"] |= {"backbone": str(backbone), "sample_steps": 2}
    values["data"]["init_args"] |= {
        "sources": {"fake": {"urls": str(capture)}},
        "image_size": 16,
        "batch_size": 2,
        "targets": 2,
        "num_workers": 0,
        "val_frames": 4,
    }
    values["trainer"] |= {
        "accelerator": "cpu",
        "max_steps": 4,
        "val_check_interval": 2,
        "log_every_n_steps": 1,
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_run_prints_where_its_results_are(config, capfd):
    trainer = main(["--config", str(config), "--trainer.val_check_interval=4"])
    assert trainer.global_step == 4
    printed = capfd.readouterr().out
    places = dict(line.rsplit("  ", 1) for line in printed.splitlines() if "runs/" in line and "  " in line)
    places = {what.strip(): Path(where.strip()) for what, where in places.items()}
    pictures = {f"picture ({name})" for name in ("samples", "grid", "worst")}
    assert set(places) == {"checkpoint", "export", "metrics", "W&B run", *pictures}
    assert all(path.exists() for path in places.values()), places
    rows = list(csv.DictReader((places["metrics"] / "metrics.csv").open()))
    names = {name for row in rows for name, value in row.items() if value}
    wanted = {"train/loss", "val/loss", "val/loss_without_reference", "val/loss_without_portrait"}
    wanted |= {"val/reference_gain", "val/portrait_gain"}
    assert wanted | {"train/images_per_second", "train/data_wait"} <= names
    saved = yaml.safe_load((places["metrics"] / "fit.yaml").read_text())
    assert saved["trainer"]["max_steps"] == 4


@pytest.fixture
def short(config):
    """The config with a single callback, checkpoints, and without validation."""
    values = yaml.safe_load(config.read_text())
    del values["trainer"]["callbacks+"]
    keep = {"every_n_train_steps": 100, "save_last": True, "save_on_exception": True}
    checkpoints = {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": keep}
    values["trainer"] |= {"limit_val_batches": 0, "callbacks": [checkpoints]}
    config.write_text(yaml.safe_dump(values))
    return config


def test_run_resumes_from_a_checkpoint(short):
    every_step = "--trainer.callbacks.init_args.every_n_train_steps=1"
    main(["--config", str(short), "--trainer.max_steps=2", every_step])
    last = "runs/stage1/version_0/checkpoints/last.ckpt"
    trainer = main(["--config", str(short), every_step, f"--ckpt_path={last}"])
    assert trainer.global_step == 4
    assert Path("runs/stage1/version_1/checkpoints/last.ckpt").is_file()


RECORDING = "--trainer.callbacks+=tests.lightning_modules.recording"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_saves_a_checkpoint_and_prints_how_to_resume(short, capfd, number):
    sent = [f"{RECORDING}.Terminate", "--trainer.callbacks.at=1", f"--trainer.callbacks.number={int(number)}"]
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(short), *sent])
    assert ended.value.code == 128 + number
    last = Path("runs/stage1/version_0/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert f"stopped by {number.name}; resume with --ckpt_path {last}" in capfd.readouterr().err


def test_interruption_before_training_prints_one_line(short, capfd):
    sent = [f"{RECORDING}.SignalIn", "--trainer.callbacks.hook=on_fit_start", "--trainer.callbacks.number=2"]
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(short), *sent])
    assert ended.value.code == 130
    said = capfd.readouterr().err
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said
    assert "attempting" not in said
    # Lightning lets the process, and all that it starts, ignore further ones
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_logger_without_its_package_is_an_input_error(short, capfd, monkeypatch):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(tensorboard, name, False)
    logger = "--trainer.logger=pytorch_lightning.loggers.TensorBoardLogger"
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(short), logger, "--trainer.logger.save_dir=runs"])
    assert ended.value.code == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "tensorboard" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--ckpt_path=nowhere.ckpt"], "--ckpt_path nowhere.ckpt: no such file"),
        (["--trainer.max_stepz=3"], "max_stepz"),
        (["--trainerr.max_steps=3"], "--trainerr.max_steps: there is no such option"),
        (["--trainer.max_steps=many"], "trainer.max_steps"),
        (["--model.backbone=nowhere"], "nowhere"),
        (["--model.reference_timestep=later"], "reference_timestep"),
        (["--model.class_path=lightning_modules.nothing.Nothing"], "lightning_modules.nothing"),
        (["--data.image_size=32"], "32"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_invalid_options_are_one_line_errors(short, capfd, change, message):
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(short), *change])
    assert ended.value.code == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_missing_configuration_is_an_input_error():
    with pytest.raises(InputError, match="nothing to train"):
        check_arguments([])
    with pytest.raises(InputError, match="required: data and model"):
        check_arguments(["--trainer.max_steps=1"])


def test_wandb_is_offline_unless_logged_in(tmp_path):
    assert not logged_in()
    assert wandb_logger("runs/x")._offline
    assert not wandb_logger("runs/x", offline=False)._offline
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert logged_in()
    assert not wandb_logger("runs/x")._offline


@pytest.fixture
def plain(config):
    """The config with only three callbacks: pictures, export, and a checkpoint after every step."""
    values = yaml.safe_load(config.read_text())
    del values["trainer"]["callbacks+"]
    keep = {"every_n_train_steps": 1, "save_last": True}
    values["trainer"] |= {
        "limit_val_batches": 1,
        "callbacks": [
            {"class_path": "callbacks.pictures.Pictures"},
            {"class_path": "callbacks.export.Export"},
            {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": keep},
        ],
    }
    config.write_text(yaml.safe_dump(values))
    return config


@pytest.mark.parametrize(
    "change",
    [
        ["--trainer.enable_progress_bar=false"],
        ["--trainer.enable_checkpointing=false"],
        ["--trainer.enable_checkpointing=false", "--trainer.callbacks=callbacks.result_paths.ResultPaths"],
    ],
    ids=["no bar", "no checkpoints", "no checkpoints, one callback"],
)
def test_trainer_switches_work(plain, change):
    assert main(["--config", str(plain), "--trainer.max_steps=1", "--trainer.logger=false", *change])
    checkpoints = list(Path("runs/stage1/version_0").glob("**/*.ckpt"))
    assert bool(checkpoints) == ("enable_checkpointing" not in change[0])


@pytest.mark.parametrize("change", ["--trainer.accelerator=gpu", "--trainer.limit_train_batches=0.5"])
def test_lightning_errors_are_one_line(plain, capfd, change):
    if "gpu" in change and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(plain), "--trainer.logger=false", change])
    assert ended.value.code == 2
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]


def test_fast_dev_run_writes_nothing_and_versions_do_not_collide(plain):
    before = sorted(Path().iterdir())
    for _ in range(2):
        assert main(["--config", str(plain), "--trainer.fast_dev_run=true"])
    caches = ("cache", "shards")  # of weights, and of the shards' indices
    assert [path for path in sorted(Path().iterdir()) if path.name not in caches] == before
    for number in range(2):
        main(["--config", str(plain), "--trainer.max_steps=1", "--trainer.logger=false"])
        assert (Path("runs/stage1") / f"version_{number}" / "export" / "stage.json").is_file()


def damage(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 16
    path.write_bytes(bytes(data))


def test_damaged_checkpoint_is_a_one_line_error(plain, capfd):
    main(["--config", str(plain), "--trainer.max_steps=1", "--trainer.logger=false"])
    (whole,) = Path("runs/stage1/version_0").glob("**/last.ckpt")
    checkpoint = torch.load(whole, weights_only=True)
    changes = {
        "flipped": lambda path: damage(path, 0.5),
        "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "text": lambda path: path.write_text("<html>not found</html>"),
        "nan": lambda path: torch.save(checkpoint | {"state_dict": nan(checkpoint["state_dict"])}, path),
        "loops": lambda path: torch.save(checkpoint | {"loops": {"fit_loop": {}}}, path),
        "callbacks": lambda path: torch.save(checkpoint | {"callbacks": []}, path),
        "optimizer": lambda path: torch.save(checkpoint | {"optimizer_states": [{}]}, path),
    }
    for name, change in changes.items():
        path = Path(f"{name}.ckpt")
        path.write_bytes(whole.read_bytes())
        change(path)
        if name in ("cut", "text", "nan", "loops"):  # found before the run, as is "flipped"
            with pytest.raises(InputError, match=str(path)):
                check_checkpoint(path)
            continue
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(plain), "--trainer.logger=false", f"--ckpt_path={path}"])
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (ended.value.code, len(errors)) == (2, 1), name
        assert str(path) in errors[0], name
        assert "weights_only" not in errors[0]


def nan(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(iter(tensors))
    return tensors | {name: torch.full_like(tensors[name], float("nan"))}


def test_versions_are_never_shared(tmp_path):
    assert [reserve_version(tmp_path / "runs") for _ in range(3)] == [0, 1, 2]
    (tmp_path / "runs" / "version_7").mkdir()
    assert reserve_version(tmp_path / "runs") == 8


def test_log_is_rewritten_atomically_when_columns_change(tmp_path, monkeypatch):
    log = LogWriter(str(tmp_path))
    path = tmp_path / "metrics.csv"

    def rows():
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(path.open(newline=""))]

    for step, values in enumerate(({"a": 1}, {"a": 2}, {"b": 3})):
        log.log_metrics(values, step)
        log.save()
    assert rows() == [{"step": "0", "a": "1"}, {"step": "1", "a": "2"}, {"step": "2", "b": "3"}]
    before = path.read_bytes()
    log.log_metrics({"c": 4}, 3)
    monkeypatch.setattr(csv.DictWriter, "writerows", lambda *_: [][0])  # a write error
    with pytest.raises(IndexError):
        log.save()
    assert path.read_bytes() == before
    monkeypatch.undo()
    log.save()
    assert rows()[-1] == {"step": "3", "c": "4"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.csv"]


@pytest.mark.slow
def test_unreachable_wandb_falls_back_to_offline(monkeypatch, tmp_path, caplog):
    """The server is a closed local port: no request leaves this machine."""
    wandb.teardown()  # runs and settings of earlier tests in this process
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(loggers, "WANDB_SECONDS", 1)
    logger = wandb_logger(str(tmp_path))
    run = logger.experiment
    assert run.offline
    assert "cannot be reached" in caplog.text
    run.finish()
    wandb.teardown()  # later tests must not use this server
