"""Tests of the Ray engine: distribution of units, retries, units given up, and errors that end a run."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from core.engine import THREADS, EngineOptions, Task
from core.errors import InputError
from tests.cluster.processes import Command

pytestmark = pytest.mark.cluster
UNITS = 6


@dataclass(frozen=True)
class Squares:
    """Task that squares numbers and marks each opening and try in `folder`. Unit `bad` kills its process or
    raises, until the try numbered `well`."""

    folder: Path
    bad: int | None = None
    how: str = ""
    well: int = 9
    opens: bool = True

    def __call__(self, worker):
        (self.folder / f"opened-{os.getpid()}").touch(exist_ok=False)
        if not self.opens:
            raise KeyError("what is opened")

        def square(number):
            tried = len(list(self.folder.glob(f"try-{number}-*")))
            (self.folder / f"try-{number}-{tried}").touch()
            if number == self.bad and tried < self.well:
                if self.how == "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise InputError("not valid") if self.how == "input" else KeyError("a fault")
            place = {"folder": str(Path.cwd()), "threads": os.environ[THREADS[0]], "shown": worker.shown}
            return {"square": number**2, "cores": worker.cores, **place}

        return square


def run(cluster, folder: Path, squares: Callable[[Path], Squares], **options: Any) -> tuple[int, Any, str]:
    """Run the units in a child process. Returns its exit code, the results by index, and its log."""

    def command() -> None:
        engine = EngineOptions(engine=f"ray:{cluster.address}", **options).cluster()
        done = engine.run(Task("squaring", "squares", squares(folder), range(UNITS)))
        found = {unit.index: unit.failure or unit.result for unit in done}
        (folder / "found.json").write_text(json.dumps(found))

    ended = Command(command, folder)
    code = ended.wait()
    found = folder / "found.json"
    results = {int(key): value for key, value in json.loads(found.read_text()).items()} if code == 0 else None
    return code, results, ended.log.read_text()


def test_units_are_distributed_and_task_opened_once_per_worker(cluster, tmp_path):
    code, found, log = run(cluster, tmp_path / "run", Squares)
    assert code == 0, log
    assert {index: unit["square"] for index, unit in found.items()} == {n: n**2 for n in range(UNITS)}
    assert {unit["folder"] for unit in found.values()} == {str(tmp_path / "run")}
    assert {(unit["threads"], unit["cores"], unit["shown"]) for unit in found.values()} == {("1", 1, False)}
    assert 1 <= len(list((tmp_path / "run").glob("opened-*"))) <= 3
    assert f"{UNITS}/{UNITS}" in log
    assert "workers" in log


@pytest.mark.parametrize("how", ["dies", "raises"])
def test_failed_unit_is_retried(cluster, tmp_path, how):
    code, found, log = run(cluster, tmp_path / "run", lambda at: Squares(at, bad=2, how=how, well=2))
    assert code == 0, log
    assert {index: unit["square"] for index, unit in found.items()} == {n: n**2 for n in range(UNITS)}
    assert len(list((tmp_path / "run").glob("try-2-*"))) == 3


@pytest.mark.parametrize(
    ("how", "reason"), [("dies", "its worker died, 3 times"), ("raises", "KeyError: 'a fault', 3 times")]
)
def test_unit_is_given_up_after_three_tries(cluster, tmp_path, how, reason):
    code, found, log = run(cluster, tmp_path / "run", lambda at: Squares(at, bad=2, how=how))
    assert code == 0, log
    assert found.pop(2) == reason
    assert {index: unit["square"] for index, unit in found.items()} == {n: n**2 for n in range(6) if n != 2}
    assert len(list((tmp_path / "run").glob("try-2-*"))) == 3


def test_input_error_ends_the_run(cluster, tmp_path):
    code, _, log = run(cluster, tmp_path / "run", lambda at: Squares(at, bad=2, how="input"))
    assert code == 2
    assert "error: not valid" in log
    assert len(list((tmp_path / "run").glob("try-2-*"))) == 1


def test_failing_open_ends_the_run(cluster, tmp_path):
    code, _, log = run(cluster, tmp_path / "run", lambda at: replace(Squares(at), opens=False), workers=1)
    assert code == 2
    assert "error: 3 workers in a row could not start; the last: KeyError: 'what is opened'" in log


def test_failures_in_a_row_end_the_run(cluster, tmp_path):
    def command() -> None:
        from core import ray_engine

        ray_engine.MOST_FAILURES = 0
        engine = EngineOptions(engine=f"ray:{cluster.address}", workers=1).cluster()
        list(engine.run(Task("squaring", "squares", Squares(tmp_path, bad=2, how="raises"), [2])))

    ended = Command(command, tmp_path / "run")
    assert ended.wait() == 2
    assert "error: 3 tries in a row failed; the last: KeyError: 'a fault'" in ended.log.read_text()


def test_unavailable_resources_are_an_input_error(cluster, tmp_path):
    code, _, log = run(cluster, tmp_path / "run", Squares, num_gpus=1.0)
    assert code == 2
    assert "error: the cluster has no node with 1 CPUs and 1 GPUs: lower --num_cpus or --num_gpus" in log


@pytest.mark.usefixtures("cluster")
def test_missing_cluster_is_an_input_error(tmp_path):
    def command() -> None:
        engine = EngineOptions(engine="ray:127.0.0.1:1").cluster()
        list(engine.run(Task("squaring", "squares", Squares(tmp_path), [1])))

    ended = Command(command, tmp_path / "run")
    assert ended.wait() == 2
    assert "error: --engine ray:127.0.0.1:1: there is no cluster" in ended.log.read_text()
