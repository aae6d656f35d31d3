"""Runs of `fit` at toy size in processes of their own."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LOSSES = ("train/loss", "train/loss_reading", "val/loss", "val/loss_reading")
CHECKPOINTS = "{class_path: pytorch_lightning.callbacks.ModelCheckpoint, init_args: {save_last: true}}"


def settings(root: Path, capture: Path, config: str = "stage1", **options: Any) -> list[str]:
    """The command line of a run named `run`; `options` are further settings, with `__` for dots."""
    views = {
        "sources": f"{{fake: {{urls: {capture}}}}}",
        "image_size": 16,
        "batch_size": 2,
        "targets": 2,
        "num_workers": 0,
        "val_frames": 3,
    }
    images = {"folders": f"[{capture}]", "val_images": 8}
    data = images if config.startswith("backbone") else views
    given = {
        "name": "run",
        "threads": 1,
        "model__init_args__learning": "{rate: 1.0e-3, decay: constant, warmup_steps: 0}",
        **{f"data__init_args__{name}": value for name, value in data.items()},
        "trainer__accelerator": "cpu",
        "trainer__devices": 1,
        "trainer__max_steps": 20,
        "trainer__val_check_interval": 10,
        "trainer__log_every_n_steps": 1,
        "trainer__default_root_dir": root,
        "trainer__callbacks": f"[{CHECKPOINTS}]",
    }
    flags = [f"--{name.replace('__', '.')}={value}" for name, value in (given | options).items()]
    return ["-m", "lightning_modules.fit", "--config", f"configs/{config}.yaml", *flags]


def environment(**changes: str) -> dict[str, str]:
    """This process's, with W&B off and one thread a process."""
    return os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"} | changes


def start(arguments: list[str], **changes: str) -> "subprocess.Popen[str]":
    """Start Python with these arguments, as the leader of a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment(**changes),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def losses(root: Path) -> dict[str, list[float]]:
    """The logged training and validation losses of the newest run, by step; empty where there are none."""
    (path,) = sorted(root.glob("run/version_*/metrics.csv"))[-1:]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row.get(name)] for name in LOSSES}
