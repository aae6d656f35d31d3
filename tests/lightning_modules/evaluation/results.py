"""Evaluations in processes that are killed, and comparison of the results of two evaluations."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import torch

from lightning_modules.evaluation.tables import MEMORY, SECONDS

COSTS = {SECONDS, MEMORY}
WITH_COSTS = ("cost.json", "manifest.json", "table.csv", "table.json", "table.md", "dots.png")


def visible_files(folder: Path) -> set[Path]:
    """The files in a folder, relative to it, without temporary ones, whose names start with a dot."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def assert_same_results(first: Path, second: Path) -> None:
    """Both folders hold the same files with the same bytes, apart from what states seconds and memory; of
    `table.csv` all other lines are the same."""
    files = visible_files(first)
    assert files == visible_files(second)
    for file in files:
        if file.name not in WITH_COSTS:
            assert (first / file).read_bytes() == (second / file).read_bytes(), file
    assert _without_costs(first / "table.csv") == _without_costs(second / "table.csv")


def _without_costs(table: Path) -> list[str]:
    lines = table.read_text().splitlines()
    metrics = [row["metric"] for row in csv.DictReader(lines)]
    assert set(metrics) >= COSTS
    return [lines[0]] + [line for line, metric in zip(lines[1:], metrics, strict=True) if metric not in COSTS]


def start_in_child(run: Callable[[], object]) -> int:
    """Start `run` in a forked process, on one thread because the parent's are not there. Returns its number.

    Results are those of the parent where it runs on one thread, too.
    """
    child = os.fork()
    if child == 0:
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            torch.set_num_threads(1)
            run()
        finally:
            os._exit(0)
    return child


def signal_of(child: int) -> int:
    """The signal that has ended a child; 0 where it ended by itself."""
    return os.WTERMSIG(os.waitpid(child, 0)[1])
