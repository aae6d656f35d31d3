"""A small part of `make fuzz`, and the outcomes that its sandbox reports."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from core.errors import InputError
from tests.fuzz import sandbox
from tests.fuzz.kinds import KINDS
from tests.fuzz.run import fuzz
from tests.fuzz.sandbox import run_case

QUICK = ("predictions manifest", "built manifest", "cameras", "weights", "latents", "photos", "YAML", "log")
CASES = 10
FEW = {"latents": 4, "YAML": 4}  # their readers take longer


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in QUICK], ids=lambda kind: kind.name)
def test_mutated_files_are_refused_or_load(kind):
    wrong = [result for result in fuzz([kind], FEW.get(kind.name, CASES), seed=1) if not result.good]
    assert wrong == []


@pytest.fixture
def place(tmp_path):
    """The folder of a case, and the path of the canary."""
    folder = tmp_path / "case/files"
    folder.mkdir(parents=True)
    return folder, tmp_path / "canary"


def refuse(_folder: Path) -> str:
    raise InputError("no")


def fail(_folder: Path) -> str:
    return [][0]


def wait(_folder: Path) -> str:
    time.sleep(60)
    return ""


def loop(_folder: Path) -> str:
    while True:
        pass


def take_memory(_folder: Path) -> str:
    return str(torch.zeros(1 << 34).sum())


def die(_folder: Path) -> str:
    os.kill(os.getpid(), signal.SIGKILL)


def execute(folder: Path) -> str:
    (folder.parents[1] / "canary").touch()
    return ""


def write_outside(folder: Path) -> str:
    (folder.parent / "outside").touch()
    return ""


@pytest.mark.parametrize(
    ("load", "verdict"),
    [
        (str, "loaded"),
        (refuse, "refused"),
        (fail, "traceback"),
        (wait, "hang"),
        (loop, "hang"),
        (take_memory, "traceback"),
        (die, "crash"),
        (execute, "executed"),
        (write_outside, "wrote outside"),
    ],
)
def test_sandbox_reports_the_outcome(place, load, verdict, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    monkeypatch.setattr(sandbox, "WAIT_SECONDS", 3)
    assert run_case(load, *place).verdict == verdict
