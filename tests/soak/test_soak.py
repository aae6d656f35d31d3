"""Kills of two commands, and the faults that a soak finds."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core.files import write_text
from tests.soak import process
from tests.soak.contents import UnreadableError, differences, read_folder, read_log, unreadable_files
from tests.soak.jobs import JOBS, Job, newest
from tests.soak.run import Bench, kill_once, soak, table

STEPS, PAUSE = 10, 0.05


def whole(steps: int = STEPS) -> None:
    """Write the missing ones of numbered files atomically."""
    for step in range(steps):
        path = Path(f"{step}.json")
        if not path.exists():
            time.sleep(PAUSE)
            write_text(path, f"[{step}]\n")


def half(_: Any) -> None:
    """Write files in place, not atomically."""
    for step in range(STEPS):
        with Path(f"{step}.json").open("w") as file:
            file.write("[")
            file.flush()
            time.sleep(PAUSE)
            file.write(f"{step}]\n")


def forgetful(_: Any) -> None:
    """Rewrite all files with contents that depend on the process."""
    for step in range(STEPS):
        time.sleep(PAUSE)
        write_text(Path(f"{step}.json"), f"[{os.getpid()}]\n")


def refuses(_: Any) -> None:
    """Fail to resume in a folder that is not empty."""
    if any(Path().iterdir()):
        sys.exit("there is something")
    whole()


def leaves(_: Any) -> None:
    """Leave a child process behind."""
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    whole()


@pytest.mark.parametrize(
    ("main", "fault"),
    [
        (lambda _: whole(), ""),
        (half, "half-written"),
        (forgetful, "other bytes"),
        (refuses, "resuming ends with 1: there is something"),
        (leaves, "processes left"),
    ],
    ids=["whole", "half", "forgetful", "refuses", "leaves"],
)
def test_faults_are_found(tmp_path, monkeypatch, main, fault):
    monkeypatch.setattr(process, "LEFT_SECONDS", 0.2)
    job = Job("it", main, lambda _: [], work="*.json")
    bench = Bench(tmp_path, tmp_path)
    bench.undisturbed(job)
    result = kill_once(bench, job, 0, Fixed())
    assert result.kept
    assert result.good == (not fault)
    assert fault in str(result)
    assert "| it | 50% | 1 | 1 | 0 |" in table([result])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stage3", "build nersemble"])
def test_killed_command_resumes_to_equal_output(tmp_path, name):
    (result,) = soak([job for job in JOBS if job.name == name], tmp_path, kills=1, seed=1)
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
