"""Units of work in this process and in processes of this machine; `tests/cluster` runs them on Ray."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.engine import THIS_PROCESS, THREADS, EngineOptions, LocalEngine, Task
from core.errors import InputError
from core.workers import ONLY_WORKER, Worker

REMEDY = "use fewer --processes"
ENGINES = [THIS_PROCESS, LocalEngine(1, REMEDY), LocalEngine(2, REMEDY)]


@dataclass(frozen=True)
class Squares:
    """Task that writes squares and marks each opening in `folder`; unit `bad` raises or kills its process."""

    folder: Path
    bad: int | None = None
    how: str = ""

    def __call__(self, worker):
        (self.folder / f"opened-{worker.number}-of-{worker.count}-{os.getpid()}").touch(exist_ok=False)

        def square(number):
            if number == self.bad:
                misbehave(self.how)
            (self.folder / f"{number}.txt").write_text(str(number**2))
            return number**2, worker, os.environ.get(THREADS[0])

        return square


def misbehave(how):
    if how == "input":
        raise InputError("this unit is not valid")
    if how == "memory":
        raise MemoryError
    if how == "other":
        raise KeyError("a fault")
    os.kill(os.getpid(), signal.SIGKILL)


def task(folder, units=range(5), **changes):
    return Task("squaring", "squares", Squares(folder, **changes), list(units))


@pytest.mark.parametrize("engine", ENGINES, ids=["here", "one", "two"])
def test_every_unit_is_done_and_its_result_returned(tmp_path, engine):
    found = list(engine.run(task(tmp_path, [3, 1, 4, 7, 5])))
    assert sorted(done.index for done in found) == list(range(5))
    assert {done.index: done.result[0] for done in found} == {0: 9, 1: 1, 2: 16, 3: 49, 4: 25}
    assert all(done.failure is None for done in found)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.txt")} == {
        f"{number}.txt": str(number**2) for number in (3, 1, 4, 7, 5)
    }


@pytest.mark.parametrize("engine", ENGINES, ids=["here", "one", "two"])
def test_task_is_opened_once_per_worker(tmp_path, engine):
    workers = [done.result[1] for done in engine.run(task(tmp_path, range(8)))]
    opened = [path.name.split("-")[1:4] for path in tmp_path.glob("opened-*")]
    count = max(engine.processes, 1)
    assert {tuple(name) for name in opened} <= {(str(number), "of", str(count)) for number in range(count)}
    assert 1 <= len(opened) <= count
    assert {worker.shown for worker in workers} == {engine.processes == 0}
    if engine.processes == 0:
        assert set(workers) == {ONLY_WORKER}


def test_no_more_processes_than_units(tmp_path):
    (done,) = LocalEngine(3, REMEDY).run(task(tmp_path, [2]))
    assert done.result[1] == Worker(0, 1, shown=False)


def test_no_units_open_nothing(tmp_path):
    for engine in ENGINES:
        assert list(engine.run(task(tmp_path, []))) == []
    assert list(tmp_path.iterdir()) == []


def test_threads_of_processes_are_limited(tmp_path, monkeypatch):
    monkeypatch.setenv(THREADS[0], "7")
    monkeypatch.delenv(THREADS[1], raising=False)
    (done,) = LocalEngine(1, REMEDY, threads=3).run(task(tmp_path, [2]))
    assert done.result[2] == "3"
    assert (os.environ[THREADS[0]], THREADS[1] in os.environ) == ("7", False)
    (done,) = LocalEngine(1, REMEDY).run(task(tmp_path, [3]))
    assert done.result[2] == "7"


@pytest.mark.parametrize("engine", ENGINES, ids=["here", "one", "two"])
def test_exceptions_of_units_are_raised(tmp_path, engine):
    with pytest.raises(InputError, match="this unit is not valid"):
        list(engine.run(task(tmp_path, bad=1, how="input")))
    assert not (tmp_path / "1.txt").exists()
    (tmp_path / "more").mkdir()
    with pytest.raises(KeyError, match="a fault"):
        list(engine.run(task(tmp_path / "more", bad=0, how="other")))


def test_dead_process_and_lack_of_memory_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"a squaring process died.*use fewer --processes"):
        list(LocalEngine(1, REMEDY).run(task(tmp_path, bad=1, how="dies")))
    for place, engine in (("here", LocalEngine(0, REMEDY)), ("there", LocalEngine(1, REMEDY))):
        (tmp_path / place).mkdir()
        with pytest.raises(InputError, match="out of memory: use fewer --processes"):
            list(engine.run(task(tmp_path / place, bad=0, how="memory")))
    (tmp_path / "own").mkdir()
    with pytest.raises(MemoryError):
        list(THIS_PROCESS.run(task(tmp_path / "own", bad=0, how="memory")))


@pytest.mark.parametrize("processes", [0, 1])
def test_progress_bar_counts_sizes_and_earlier_units(tmp_path, capsys, processes):
    work = Task("squaring", "squares", Squares(tmp_path), [1, 2], [30, 50], "frame", done=20)
    assert len(list(LocalEngine(processes, REMEDY).run(work))) == 2
    assert "squares: 100%" in (shown := capsys.readouterr().err)
    assert "100/100" in shown
    assert "frame/s" in shown


def test_single_unit_with_own_bars_has_no_outer_bar(tmp_path, capsys):
    for units, shown in (([1], False), ([2, 3], True)):
        work = Task("squaring", "squares", Squares(tmp_path), units, own_bars=True)
        for path in tmp_path.glob("opened-*"):
            path.unlink()
        list(THIS_PROCESS.run(work))
        assert ("squares" in capsys.readouterr().err) == shown


def test_workers_end_when_command_is_killed(tmp_path):
    script = (
        "from pathlib import Path; from core.engine import LocalEngine, Task; "
        "from tests.core.test_engine import Waits; "
        f"list(LocalEngine(1, '').run(Task('waiting', 'wait', Waits(Path({str(tmp_path)!r})), [1])))"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as command:
        wait_until(lambda: any(tmp_path.iterdir()))
        command.kill()
    worker = int(next(tmp_path.iterdir()).name)
    wait_until(lambda: not runs(worker))


@dataclass(frozen=True)
class Waits:
    """Task that writes its process ID and waits."""

    folder: Path

    def __call__(self, _worker):
        def wait(_unit):
            (self.folder / str(os.getpid())).touch()
            time.sleep(600)

        return wait


def wait_until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "slurm"}, "--engine slurm: choose local, ray or ray:ADDRESS"),
        ({"engine": "local:8"}, "--engine local:8: choose"),
        ({"engine": "ray:"}, "--engine ray:: choose"),
        ({"num_gpus": 1.0}, "--num_gpus applies to workers of a cluster: give --engine ray"),
        ({"workers": 2}, "--workers applies to workers of a cluster"),
        ({"engine": "ray", "workers": 0}, "--num_cpus and --workers take more than 0"),
        ({"engine": "ray", "num_cpus": 0.0}, "--num_cpus and --workers take more than 0"),
        ({"engine": "ray", "num_gpus": -1.0}, "--num_gpus 0 or more"),
    ],
)
def test_inconsistent_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        EngineOptions(**options)


def test_missing_ray_is_an_input_error(monkeypatch):
    monkeypatch.setattr("core.engine.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs Ray: pip install .*\[cluster\]"):
        EngineOptions(engine="ray")
    assert EngineOptions().cluster() is None


def test_cluster_devices_follow_from_num_gpus(monkeypatch):
    monkeypatch.setattr("core.engine.find_spec", lambda _: "there")
    assert EngineOptions(engine="ray").cluster_devices() == ["cpu"]
    shared = EngineOptions(engine="ray:head:6379", num_gpus=0.5)
    assert shared.cluster_devices() == ["cuda:0"]
    assert EngineOptions(engine="ray", num_gpus=2.0).cluster_devices() == ["cuda:0", "cuda:1"]
    assert shared.cluster_device("cuda") == "cuda:0"
    assert shared.devices_for(None, None) == ["cuda:0"]
    for asked in ((2, None), (None, "cpu")):
        with pytest.raises(InputError, match="--device and --devices are for this machine"):
            shared.devices_for(*asked)
    assert EngineOptions().devices_for(None, "cpu") == ["cpu"]
    with pytest.raises(InputError, match="--device cpu: on a cluster, --num_gpus selects"):
        shared.cluster_device("cpu")


def test_worker_threads(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert [Worker(0, count).threads() for count in (1, 3, 40)] == [16, 5, 1]
    assert Worker(cores=2).threads() == 2
