"""Atomic writing of files and folders: during a write, after a crash, with concurrent writers."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.errors import InputError
from core.files import (
    DONE,
    RESULT,
    exclusive,
    resumable_folder,
    whole_file,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(path: Path, content: str, replace: bool = False) -> None:
    with whole_folder(path, replace) as folder:
        (folder / content).write_text(content)


def in_another_process(code: str, *arguments: str | Path) -> subprocess.Popen:
    """Start a process that runs `code`, whose `ready()` reports here and blocks until a line is sent."""
    frame = (
        "import sys\nfrom pathlib import Path\nfrom core.files import *\n"
        "def ready():\n    print('ready', flush=True)\n    sys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", frame + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def writer(tmp_path: Path) -> Callable[[], subprocess.Popen]:
    code = (
        "with whole_folder(Path(sys.argv[1]), replace=True) as folder:\n"
        "    (folder / 'first').write_text('first')\n    ready()\n"
    )
    return lambda: in_another_process(code, tmp_path / "out")


# Files


def test_file_is_replaced_atomically(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.parent == tmp_path
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_json_keeps_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"Jos\xe9.jpg")
    write_json(tmp_path / "a.json", {"photo": name})
    data = (tmp_path / "a.json").read_bytes()
    assert data.decode("utf-8") == '{\n "photo": "Jos\\udce9.jpg"\n}\n'
    assert json.loads(data) == {"photo": name}


def test_safetensors_get_default_permissions(tmp_path: Path) -> None:
    """safetensors makes files that only their owner can read."""
    (tmp_path / "plain").touch()
    with whole_file(tmp_path / "one.safetensors") as partial:
        save_file({"x": np.zeros(1)}, partial)
    with whole_folder(tmp_path / "several") as folder:
        save_file({"x": np.zeros(1)}, folder / "two.safetensors")
    for name in ("one.safetensors", "several/two.safetensors"):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "plain").stat().st_mode, name


def test_failed_write_keeps_old_file(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": 1})
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.json") as partial:
        partial.write_text("{", encoding=Path("no/such/file").read_text())
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == '{\n "b": 1\n}\n'


def _write_often(path: Path, letter: str, count: int) -> None:
    for _ in range(count):
        write_text(path, letter * 5000)


def test_concurrent_writers_never_expose_a_partial_file(tmp_path: Path):
    path = tmp_path / "settings.json"
    write_text(path, "c" * 5000)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(path, letter, 40)) for letter in "ab"]
    for process in writers:
        process.start()
    seen = set()
    while any(process.is_alive() for process in writers):
        seen.add(path.read_text())
    assert [process.exitcode for process in writers] == [0, 0]
    assert seen | {path.read_text()} <= {letter * 5000 for letter in "abc"}
    assert names(tmp_path) == ["settings.json"]


def test_temporary_files_of_dead_writers_are_removed(tmp_path: Path):
    code = "with whole_file(Path(sys.argv[1])) as partial:\n    ready()\n"
    killed, alive = (in_another_process(code, tmp_path / "a.txt") for _ in range(2))
    killed.kill()
    killed.communicate()
    assert len(names(tmp_path)) == 2
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)
    write_text(tmp_path / "a.txt", "mine")
    assert len(names(tmp_path)) == 2
    alive.communicate("go on\n")
    assert alive.returncode == 0
    assert names(tmp_path) == ["a.txt"]


# Folders


def test_existing_folder_needs_replace(tmp_path: Path):
    fill(tmp_path / "deep" / "out", "old")
    with pytest.raises(InputError, match="exists already"):
        fill(tmp_path / "deep" / "out", "new")
    fill(tmp_path / "deep" / "out", "new", replace=True)
    assert names(tmp_path / "deep" / "out") == ["new"]
    assert names(tmp_path / "deep") == ["out"]


def test_failed_write_keeps_old_folder(tmp_path: Path):
    fill(tmp_path / "out", "old")
    with pytest.raises(FileNotFoundError):
        fill(tmp_path / "out", "no/such/file", replace=True)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


def test_folder_below_a_file_is_an_input_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out: the folder cannot be created: Not a directory"):
        fill(tmp_path / "file" / "out", "new")


def test_second_concurrent_writer_is_refused(tmp_path: Path, writer):
    first = writer()
    with pytest.raises(InputError, match="another process is writing it"):
        fill(tmp_path / "out", "second", replace=True)
    first.communicate("go on\n")
    assert first.returncode == 0
    assert names(tmp_path / "out") == ["first"]
    assert names(tmp_path) == ["out"]


def test_write_succeeds_after_a_killed_writer(tmp_path: Path, writer):
    fill(tmp_path / "out", "old")
    killed = writer()
    killed.kill()
    killed.communicate()
    assert names(tmp_path / "out") == ["old"]
    fill(tmp_path / "out", "new", replace=True)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["new"]


def test_replacement_interrupted_between_renames_is_recovered(tmp_path: Path):
    fill(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / "out.replaced")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out", replace=True):
        raise ZeroDivisionError
    assert names(tmp_path / "out") == ["old"]


def test_exclusive_lock_is_held_by_one_process(tmp_path: Path):
    other = in_another_process("with exclusive(Path(sys.argv[1])):\n    ready()\n", tmp_path / "a" / "out")
    with pytest.raises(InputError, match="another process is writing it"), exclusive(tmp_path / "a" / "out"):
        pytest.fail("both hold it")
    other.communicate("go on\n")
    with exclusive(tmp_path / "a" / "out"):
        assert names(tmp_path / "a") == [".out.lock"]
    assert names(tmp_path / "a") == []


# Resumable folders


def test_resuming_needs_the_same_recipe(tmp_path: Path):
    def work(recipe: object, fail: bool) -> None:
        with resumable_folder(tmp_path / "out", recipe) as folder:
            (folder / RESULT).mkdir(exist_ok=True)
            write_bytes(folder / RESULT / str(len(names(folder / RESULT))), b"")
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work({"a": (1, 2)}, fail=True)
    assert names(tmp_path) == ["out.partial"]
    with pytest.raises(InputError, match="other settings"):
        work({"a": (1, 3)}, fail=False)
    work({"a": (1, 2)}, fail=False)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["0", "1"]
    with pytest.raises(InputError, match="exists already"):
        work({"a": (1, 2)}, fail=False)


def test_resumable_folder_replaces_folder_when_complete(tmp_path: Path):
    fill(tmp_path / "out", "old")

    def work(content: str, fail: bool = False) -> None:
        with resumable_folder(tmp_path / "out", {}, replace=True) as folder:
            (folder / RESULT).mkdir(exist_ok=True)
            write_bytes(folder / RESULT / content, b"")
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work("new", fail=True)
    assert names(tmp_path / "out") == ["old"]
    work("newer")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["new", "newer"]
    (tmp_path / "out.partial").mkdir()
    write_bytes(tmp_path / "out.partial" / DONE, b"")
    work("last")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["last"]


def test_resumable_folder_killed_between_renames_is_completed(tmp_path: Path):
    for path in (tmp_path / "out.replaced", tmp_path / "out.partial" / RESULT):
        path.mkdir(parents=True)
    write_json(tmp_path / "out.partial" / "recipe.json", {})
    write_bytes(tmp_path / "out.partial" / DONE, b"")
    with resumable_folder(tmp_path / "out", {}, replace=True):
        pass
    assert names(tmp_path) == ["out"]


def test_leftovers_of_finished_work_are_removed(tmp_path: Path):
    """A process may die after its result appeared and before its work folder is removed."""
    for path in (tmp_path / "out", tmp_path / "out.partial", tmp_path / "other", tmp_path / "other.partial"):
        path.mkdir()
    write_bytes(tmp_path / "out.partial" / DONE, b"")
    for name in ("out", "other"):
        with pytest.raises(InputError, match="exists already"), resumable_folder(tmp_path / name, {}):
            pass
    assert names(tmp_path) == ["other", "other.partial", "out"]
