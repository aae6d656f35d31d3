"""Training on several machines: two torchrun agents on the loopback interface against one process."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = 20
CHECKPOINTS = "[{class_path: pytorch_lightning.callbacks.ModelCheckpoint, init_args: {save_last: true}}]"


def settings(root: Path, capture: Path, backbone: Path, batch: int, *more: str) -> list[str]:
    """The command line of a stage 1 at toy size."""
    options = {
        "name": "nodes",
        "threads": 1,
        "model.init_args.backbone": backbone,
        "model.init_args.learning": "{rate: 1.0e-3, decay: constant, warmup_steps: 0}",
        "data.init_args.sources": f"{{fake: {{urls: {capture}}}}}",
        "data.init_args.image_size": 16,
        "data.init_args.batch_size": batch,
        "data.init_args.targets": 2,
        "data.init_args.num_workers": 0,
        "data.init_args.val_frames": 3,
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.max_steps": STEPS,
        "trainer.val_check_interval": 10,
        "trainer.log_every_n_steps": 1,
        "trainer.default_root_dir": root,
        "trainer.callbacks": CHECKPOINTS,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return ["-m", "lightning_modules.fit", "--config", "configs/stage1.yaml", *flags, *more]


def environment() -> dict[str, str]:
    """The environment with W&B disabled and one thread per process."""
    return os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}


def losses(root: Path) -> dict[str, list[float]]:
    """The logged training and validation losses of the newest run, by step."""
    (path,) = sorted(root.glob("nodes/version_*/metrics.csv"))[-1:]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row.get(name)] for name in ("train/loss", "val/loss")}


def two_nodes(arguments: list[str]) -> None:
    """Run `arguments` with two agents of one process each, as on two machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1")
    torchrun += ("--master_addr=127.0.0.1", f"--master_port={port}")
    agents = [
        subprocess.Popen(
            [sys.executable, *torchrun, f"--node_rank={node}", *arguments],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    errors = [agent.communicate(timeout=600)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(errors)


@pytest.mark.slow
def test_two_nodes_match_one_process_and_resume(tmp_path: Path, capture: Path, backbone: Path) -> None:
    alone = settings(tmp_path / "alone", capture, backbone, 4)
    subprocess.run([sys.executable, *alone], env=environment(), check=True)
    ddp = ("--trainer.num_nodes=2", "--trainer.strategy=ddp")
    two_nodes(settings(tmp_path / "two", capture, backbone, 2, *ddp))
    expected, found = losses(tmp_path / "alone"), losses(tmp_path / "two")
    assert len(found["train/loss"]) == STEPS
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name

    half = f"--trainer.max_steps={STEPS // 2}"
    two_nodes(settings(tmp_path / "first", capture, backbone, 2, *ddp, half))
    (last,) = (tmp_path / "first").glob("nodes/version_*/checkpoints/last.ckpt")
    resumed = settings(tmp_path / "second", capture, backbone, 4, f"--ckpt_path={last}")
    subprocess.run([sys.executable, *resumed], env=environment(), check=True)
    again = losses(tmp_path / "second")
    for name, values in again.items():
        assert values == pytest.approx(expected[name][-len(values) :], rel=1e-4), name
    assert len(again["train/loss"]) == STEPS // 2
