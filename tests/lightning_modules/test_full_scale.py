"""The habits of full-size training (configs/scale/sd15.yaml, configs/trainer/eight_gpus.yaml) at toy size."""

import csv
import math
from pathlib import Path

import pytest
import torch
import yaml

from callbacks.optimizer_values import GRADIENT_NORM, LEARNING_RATE
from lightning_modules.fit import main

CONFIGS = Path(__file__).parents[2] / "configs"
SCALE = CONFIGS / "scale" / "sd15.yaml"


@pytest.fixture
def layers(backbone, capture, tmp_path, monkeypatch):
    """Stage 1 and its full-size layer, on one CPU, with toy networks and data and the intervals divided by
    500."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    values = yaml.safe_load(SCALE.read_text())
    trainer = yaml.safe_load((SCALE.parent / values["trainer"]).read_text())
    for callback in trainer["callbacks"]:
        own = callback.get("init_args", {})
        if "every_n_train_steps" in own:
            own["every_n_train_steps"] //= 500
        if "frames" in own:
            own |= {"frames": 2, "views": 1, "steps": 1, "metrics": ["PSNR"]}
    trainer |= {"accelerator": "cpu", "devices": 1, "strategy": "auto", "max_steps": 5}
    trainer |= {"val_check_interval": 4, "log_every_n_steps": 1}
    values["trainer"] = trainer
    values["model"]["init_args"] |= {"backbone": str(backbone), "sample_steps": 1}
    values["data"]["init_args"] |= {"image_size": 16, "num_workers": 0, "val_frames": 4}
    values["data"]["init_args"]["sources"] = {"fake": {"urls": str(capture)}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))
    return [f"--config={CONFIGS / 'stage1.yaml'}", f"--config={tmp_path / 'toy.yaml'}"]


def logged(folder: Path) -> dict[str, list[float]]:
    """The logged values of a run, by name."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {name for row in rows for name in row if "/" in name}
    return {name: [float(row[name]) for row in rows if row.get(name)] for name in names}


def test_run_logs_its_optimiser_and_gains_and_keeps_one_checkpoint(layers):
    main(layers)
    folder = Path("runs/stage1/version_0")
    values = logged(folder)
    assert values[LEARNING_RATE] == pytest.approx([1e-5] * 5)
    assert len(values[GRADIENT_NORM]) == 5
    assert all(norm > 0 for norm in values[GRADIENT_NORM])
    # batches of one person are compared with another person of the validation set
    for name in ("val/reference_gain", "val/portrait_gain", "val/loss_without_reference"):
        assert all(map(math.isfinite, values[name])), name
    assert values["val/reference_gain"]
    (kept,) = (folder / "checkpoints").iterdir()
    assert kept.name == "last.ckpt"
    checkpoint = torch.load(kept, weights_only=True)
    assert checkpoint["global_step"] == 5
    assert main([*layers, f"--ckpt_path={kept}", "--trainer.max_steps=6"]).global_step == 6


def test_interrupted_run_keeps_its_last_step(layers):
    """As on a cluster whose jobs end after some hours."""
    with pytest.raises(SystemExit):
        main([*layers, "--trainer.callbacks+=tests.lightning_modules.recording.Terminate",
              "--trainer.callbacks.at=3"])  # fmt: skip
    (kept,) = Path("runs/stage1/version_0/checkpoints").iterdir()
    assert kept.name == "last.ckpt"
    assert torch.load(kept, weights_only=True)["global_step"] in (3, 4)
