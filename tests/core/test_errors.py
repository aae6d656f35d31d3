"""How commands end on a user's mistake."""

import errno
import os

import pytest

from core.errors import IncompleteError, InputError, one_line


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (IncompleteError, 1)])
def test_a_mistake_is_one_line_and_its_exit_code(capsys, error, code):
    with pytest.raises(SystemExit) as end, one_line():
        raise error("a.png: no\n photo")
    assert end.value.code == code
    assert capsys.readouterr().err == "error: a.png: no photo\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "that can be written to"), (errno.EACCES, "permissions")],
)
def test_a_full_or_closed_disk_is_one_line_that_names_the_file(capsys, number, said):
    with pytest.raises(SystemExit) as end, one_line():
        raise OSError(number, os.strerror(number), "runs/a.ckpt")
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: runs/a.ckpt: {os.strerror(number)}: ")
    assert said in line


def test_other_errors_keep_their_traceback():
    for bug in (RuntimeError("a bug"), FileNotFoundError(errno.ENOENT, "no such file", "a")):
        with pytest.raises(type(bug)), one_line():
            raise bug


def test_a_line_is_cut_where_a_file_names_something_endless(capsys):
    with pytest.raises(SystemExit), one_line():
        raise InputError("x" * 10_000)
    assert len(capsys.readouterr().err) < 2100
