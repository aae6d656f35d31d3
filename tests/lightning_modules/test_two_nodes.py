"""Training on several machines: two torchrun agents on the loopback interface against one process."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lightning_modules.processes import environment, losses, settings

STEPS = 20


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
    def run(name: str, batch: int, **options: Any) -> list[str]:
        options |= {"model__init_args__backbone": backbone, "data__init_args__batch_size": batch}
        return settings(tmp_path / name, capture, **options)

    subprocess.run([sys.executable, *run("alone", 4)], env=environment(), check=True)
    ddp = {"trainer__num_nodes": 2, "trainer__strategy": "ddp"}
    two_nodes(run("two", 2, **ddp))
    expected, found = losses(tmp_path / "alone"), losses(tmp_path / "two")
    assert len(found["train/loss"]) == STEPS
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name

    two_nodes(run("first", 2, trainer__max_steps=STEPS // 2, **ddp))
    (last,) = (tmp_path / "first").glob("run/version_*/checkpoints/last.ckpt")
    subprocess.run([sys.executable, *run("second", 4, ckpt_path=last)], env=environment(), check=True)
    again = losses(tmp_path / "second")
    for name, values in again.items():
        assert values == pytest.approx(expected[name][-len(values) :], rel=1e-4), name
    assert len(again["train/loss"]) == STEPS // 2
