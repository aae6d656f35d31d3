import pytest

from core.errors import InputError
from core.files import whole_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(path, content, replace=False):
    with whole_folder(path, replace) as folder:
        (folder / content).write_text(content)


def test_an_existing_folder_is_replaced_only_where_asked(tmp_path):
    fill(tmp_path / "deep" / "out", "old")
    with pytest.raises(InputError, match="exists already"):
        fill(tmp_path / "deep" / "out", "new")
    fill(tmp_path / "deep" / "out", "new", replace=True)
    assert names(tmp_path / "deep" / "out") == ["new"]
    assert names(tmp_path / "deep") == ["out"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    fill(tmp_path / "out", "old")
    with pytest.raises(FileNotFoundError):
        fill(tmp_path / "out", "no/such/file", replace=True)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


def test_a_place_where_no_folder_can_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out: no folder can be made there: Not a directory"):
        fill(tmp_path / "file" / "out", "new")
