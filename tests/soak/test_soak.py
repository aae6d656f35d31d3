"""Kills of two commands, and that a soak finds what it is there to find."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.files import write_text
from tests.soak import process
from tests.soak.contents import UnreadableError, differences, read_folder, read_log, unreadable_files
from tests.soak.jobs import JOBS, Job, newest
from tests.soak.run import Bench, kill_once, soak, table

STEPS, PAUSE = 20, 0.05


def whole(steps: int = STEPS) -> None:
    """Writes numbered files, each whole, and goes on with those that are not there."""
    for step in range(steps):
        path = Path(f"{step}.json")
        if not path.exists():
            time.sleep(PAUSE)
            write_text(path, f"[{step}]\n")


def half(_: Any) -> None:
    """Writes its files in place."""
    for step in range(STEPS):
        with Path(f"{step}.json").open("w") as file:
            file.write("[")
            file.flush()
            time.sleep(PAUSE)
            file.write(f"{step}]\n")


def forgetful(_: Any) -> None:
    """Numbers its files by how many there are in this process, not in all."""
    for step in range(STEPS):
        time.sleep(PAUSE)
        write_text(Path(f"{step}.json"), f"[{os.getpid()}]\n")


def refuses(_: Any) -> None:
    """Does not go on where there is something."""
    if any(Path().iterdir()):
        sys.exit("there is something")
    whole()


def leaves(_: Any) -> None:
    """Starts a process that outlives it."""
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    whole()


@pytest.mark.parametrize(
    ("main", "fault"),
    [
        (lambda _: whole(), ""),
        (half, "half-written"),
        (forgetful, "values differ"),
        (refuses, "going on ends with 1: there is something"),
        (leaves, "processes left"),
    ],
    ids=["whole", "half", "forgetful", "refuses", "leaves"],
)
def test_what_goes_wrong_is_found(tmp_path, monkeypatch, main, fault):
    monkeypatch.setattr(process, "LEFT_SECONDS", 0.2)
    job = Job("it", main, lambda _: [], work="*.json")
    bench = Bench(tmp_path, tmp_path)
    bench.undisturbed(job)
    result = kill_once(bench, job, 0, Fixed())
    assert result.kept
    assert result.good == (not fault)
    assert fault in str(result)
    assert "| it | 50% | 1 | 1 | 0 |" in table([result])


class Fixed:
    """Draws the middle of the run, and the process without its workers."""

    def choice(self, options):
        return options[0]

    def uniform(self, low, high):
        return (low + high - 0.05) / 2
