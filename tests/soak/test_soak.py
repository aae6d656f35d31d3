"""Kills of two commands, and the faults that a soak finds."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core.files import write_text
from tests.soak import process
from tests.soak.contents import UnreadableError, differences, read_folder, read_log, unreadable_files
from tests.soak.jobs import JOBS, Job, newest
from tests.soak.process import end_group, run_command
from tests.soak.run import Bench, Undisturbed, kill_once, soak, table

STEPS = 10
LONG = 600.0  # seconds


def reach(step: int) -> None:
    """Go on to a step. In the middle of the first run that is to be killed, the process kills itself: a time
    after its start would be another step on a busy machine."""
    killed = Path("killed.lock")  # locks are no output
    if step == STEPS // 2 and Path.cwd().name == "case" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def whole(steps: int = STEPS) -> None:
    """Write the missing ones of numbered files atomically."""
    for step in range(steps):
        reach(step)
        path = Path(f"{step}.json")
        if not path.exists():
            write_text(path, f"[{step}]\n")


def half(_: Any) -> None:
    """Write files in place, not atomically."""
    for step in range(STEPS):
        with Path(f"{step}.json").open("w") as file:
            file.write("[")
            file.flush()
            reach(step)
            file.write(f"{step}]\n")


def forgetful(_: Any) -> None:
    """Rewrite all files with contents that depend on the process."""
    for step in range(STEPS):
        reach(step)
        write_text(Path(f"{step}.json"), f"[{os.getpid()}]\n")


def refuses(_: Any) -> None:
    """Fail to resume in a folder that is not empty."""
    if any(Path().iterdir()):
        sys.exit("there is something")
    whole()


def leave() -> None:
    """Leave a child process behind."""
    if os.fork() == 0:
        time.sleep(LONG)
        os._exit(0)


def leaves(_: Any) -> None:
    """Leave a child process behind in every run."""
    leave()
    whole()


@pytest.mark.parametrize(
    ("main", "fault"),
    [
        (lambda _: whole(), ""),
        (half, "half-written"),
        (forgetful, "other bytes"),
        (refuses, "resuming ends with 1: there is something"),
        (leaves, "2 processes left"),
    ],
    ids=["whole", "half", "forgetful", "refuses", "leaves"],
)
def test_faults_are_found(tmp_path, monkeypatch, main, fault):
    monkeypatch.setattr(process, "LEFT_SECONDS", 0.2)
    job = Job("it", main, lambda _: [], work="*.json")
    bench = Bench(tmp_path, tmp_path)
    ended = bench.command(job, bench.fresh("undisturbed"))
    assert ended.code == 0
    end_group(ended.group)
    bench.known["it"] = Undisturbed(read_folder(tmp_path / "undisturbed"), LONG)
    result = kill_once(bench, job, 0, Fixed())
    assert result.kept
    assert result.good == (not fault)
    assert fault in str(result)
    assert "| it | 50% | 1 | 1 | 0 |" in table([result])


@pytest.mark.parametrize(("victim", "seconds", "left"), [("process", 2.0, 1), ("group", 0.2, 0)])
def test_command_is_killed_with_or_without_its_workers(tmp_path, monkeypatch, victim, seconds, left):
    """Its worker is forked at once, long before the process alone is killed."""
    monkeypatch.setattr(process, "LEFT_SECONDS", 0.2)

    def command() -> None:
        leave()
        time.sleep(LONG)

    ended = run_command(command, tmp_path, tmp_path / "log", kill_after=seconds, victim=victim)
    assert ended.code == -signal.SIGKILL
    assert end_group(ended.group) == left


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_killed_command_resumes_to_equal_output(tmp_path, job):
    (result,) = soak([job], tmp_path, kills=1, seed=1)
    assert result.good, str(result)


def files(folder: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


LOG = "runs/run/version_{}/metrics.csv"


def test_versions_of_a_run_are_merged(tmp_path):
    one = files(tmp_path / "one", {LOG.format(0): "step,a\n0,1\n1,2\n2,3\n"})
    two = {LOG.format(0): "step,a\n0,1\n1,2\n", LOG.format(1): "a,b_seconds,step\n2,8,1\n3,9,2\n"}
    assert differences(read_folder(files(tmp_path / "two", two)), read_folder(one)) == []
    lost = files(tmp_path / "lost", {LOG.format(0): "step,a\n0,1\n2,3\n"})
    (line,) = differences(read_folder(lost), read_folder(one))
    assert line == "runs/run/metrics.csv: 1 values differ: ('1', 'a'): None for 2"


def test_measured_rows_of_a_table_are_ignored(tmp_path):
    table = "metric,mean\nPSNR,{}\nseconds/view,{}\npeak GiB,{}\n"
    one = read_folder(files(tmp_path / "one", {"table.csv": table.format(30, 1, 2)}))
    assert differences(read_folder(files(tmp_path / "two", {"table.csv": table.format(30, 3, 4)})), one) == []
    other = read_folder(files(tmp_path / "other", {"table.csv": table.format(31, 1, 2)}))
    assert differences(other, one) == ["table.csv: other bytes"]


def test_half_written_files_are_found(tmp_path):
    files(tmp_path, {"a.json": "[1", "b.png": "", "c.partial/a.json": "[", ".d.x.partial": "", "e.json": "1"})
    files(tmp_path, {LOG.format(0): "step,a\n0,1\n1", "f.tar": "", "last.ckpt": "PK", "g.safetensors": ""})
    found = [Path(line.split(": ")[0]).name for line in unreadable_files(tmp_path)]
    assert found == ["a.json", "b.png", "f.tar", "g.safetensors", "last.ckpt", "metrics.csv"]
    with pytest.raises(UnreadableError, match="cut off"):
        read_log(tmp_path / LOG.format(0))


def test_newest_checkpoint_is_resumed(tmp_path):
    place = "runs/run/version_{}/checkpoints/last.ckpt"
    assert newest(tmp_path) == []
    files(tmp_path, {place.format(9): "", place.format(10): ""})
    assert newest(tmp_path) == [f"--ckpt_path={place.format(10)}"]


class Fixed:
    """Chooses the middle of the run, and the process without its workers."""

    def choice(self, options):
        return options[0]

    def uniform(self, low, high):
        return (low + high - 0.05) / 2
