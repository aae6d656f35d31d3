"""How commands end on a user's mistake."""

import pytest

from core.errors import IncompleteError, InputError, one_line


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (IncompleteError, 1)])
def test_a_mistake_is_one_line_and_its_exit_code(capsys, error, code):
    with pytest.raises(SystemExit) as end, one_line():
        raise error("a.png: no\n photo")
    assert end.value.code == code
    assert capsys.readouterr().err == "error: a.png: no photo\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError), one_line():
        raise RuntimeError("a bug")
