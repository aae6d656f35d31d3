"""Messages and exit codes of failing commands."""

import errno
import os

import pytest

from core.errors import IncompleteError, InputError, one_line


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (IncompleteError, 1)])
def test_input_error_prints_one_line_and_sets_exit_code(capsys, error, code):
    with pytest.raises(SystemExit) as end, one_line():
        raise error("a.png: no\n photo")
    assert end.value.code == code
    assert capsys.readouterr().err == "error: a.png: no photo\n"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "that can be written to"), (errno.EACCES, "permissions")],
)
def test_disk_error_prints_the_file_and_advice(capsys, number, advice):
    with pytest.raises(SystemExit) as end, one_line():
        raise OSError(number, os.strerror(number), "runs/a.ckpt")
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: runs/a.ckpt: {os.strerror(number)}: ")
    assert advice in line


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
