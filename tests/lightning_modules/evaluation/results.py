"""Running evaluations in child processes, and comparing the results of two evaluations."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import torch

from lightning_modules.evaluation.tables import MEMORY, SECONDS

COSTS = {SECONDS, MEMORY}
WITH_COSTS = ("cost.json", "manifest.json", "table.csv", "table.json", "table.md", "dots.png")


def visible_files(folder: Path) -> set[Path]:
    """The files below a folder, relative to it, without hidden (temporary) ones."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def assert_same_results(first: Path, second: Path) -> None:
    """Assert that both folders hold the same files with the same bytes, except for seconds and memory; in
    `table.csv` all other lines are equal."""
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
    """Start `run` in a forked process on one thread, and return its process ID.

    Its results are bit-identical to the parent's on one thread.
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
    """The signal that terminated a child, or 0."""
    return os.WTERMSIG(os.waitpid(child, 0)[1])
