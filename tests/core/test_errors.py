"""Messages and exit codes of failing commands."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from core.errors import IncompleteError, InputError, one_line


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (IncompleteError, 1)])
def test_input_error_prints_one_line_and_sets_exit_code(capsys, error, code):
    with pytest.raises(SystemExit) as end, one_line():
        raise error("a.png: no\n photo")
    assert end.value.code == code
    assert capsys.readouterr().err == "error: a.png: no photo\n"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EROFS, "that can be written to"),
        (errno.EACCES, "permissions"),
        (errno.ENAMETOOLONG, "a shorter name"),
        (errno.ENOTDIR, "a part of this path is a file"),
        (errno.EISDIR, "name a file"),
        (errno.ELOOP, "links"),
    ],
)
def test_disk_error_prints_the_file_and_advice(capsys, number, advice):
    with pytest.raises(SystemExit) as end, one_line():
        raise OSError(number, os.strerror(number), "runs/a.ckpt")
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: runs/a.ckpt: {os.strerror(number)}: ")
    assert advice in line


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda: np.empty(1 << 50), "Unable to allocate"),
        (lambda: torch.empty(1 << 60), "DefaultCPUAllocator"),
        (lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried …")), "CUDA out of memory"),
        (lambda: _raise(MemoryError()), "ask for less at a time"),
    ],
)
def test_lack_of_memory_prints_one_line(capsys, fault, reason):
    with pytest.raises(SystemExit) as end, one_line():
        fault()
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory")
    assert reason in line
    assert "ask for less at a time" in line


def _raise(error: Exception) -> None:
    raise error


PRINTS = """
import sys
from core.errors import one_line
with one_line():
    for number in range({lines}):
        print({text!r}, flush={flush})
"""


@pytest.mark.parametrize("flush", [True, False])
def test_output_that_is_cut_off_ends_silently(flush):
    command = [sys.executable, "-c", PRINTS.format(lines=200_000, text="a line", flush=flush)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_can_be_printed(encoding):
    name = os.fsdecode(b"Jos\xe9 \xe2\x86\x92.jpg")
    command = [sys.executable, "-c", PRINTS.format(lines=1, text=name, flush=True)]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.returncode == 0
    assert done.stdout.startswith(b"Jos\\udce9 ")


def test_interruption_prints_one_line(capsys):
    with pytest.raises(SystemExit) as end, one_line():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_other_errors_propagate():
    for bug in (RuntimeError("a bug"), FileNotFoundError(errno.ENOENT, "no such file", "a")):
        with pytest.raises(type(bug)), one_line():
            raise bug


def test_long_message_is_truncated(capsys):
    with pytest.raises(SystemExit), one_line():
        raise InputError("x" * 10_000)
    assert len(capsys.readouterr().err) < 2100
