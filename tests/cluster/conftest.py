"""A cluster of three nodes with a core each, on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Nodes(NamedTuple):
    """A cluster's address, and the process that all its processes are below."""

    address: str
    process: int


@pytest.fixture(scope="session")
def cluster() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="needs Ray: make test-cluster installs it")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "tests.cluster.nodes", "3"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True
    ) as nodes:
        assert nodes.stdin is not None
        assert nodes.stdout is not None
        yield Nodes(nodes.stdout.readline().strip(), nodes.pid)
        nodes.stdin.close()
