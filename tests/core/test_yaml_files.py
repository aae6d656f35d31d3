"""Reading of YAML settings: valid, damaged and hostile files."""

from pathlib import Path

import pytest

from core.errors import InputError
from core.yaml_files import check_configs, read_yaml

BILLION_LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9)
)


def test_aliases_are_resolved(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {b: 1}\nc: [*a, *a]\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": [{"b": 1}] * 2}
    check_configs(["--out", "x", "--config", str(path), f"--config={path}"])


@pytest.mark.parametrize(
    "text",
    [
        BILLION_LAUGHS,
        "a: &a [*a]\n",
        "[" * 5000,
        "- 1\n",
        "",
        "a: !!python/object/apply:os.getcwd []\n",
        "a: *b\n",
        f"a: [1{'0' * 400}]\n",
        "? ? :",
    ],
)
def test_invalid_yaml_is_an_input_error(tmp_path: Path, text: str):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for arguments in (["--config", str(path)], [f"--config={path}"]):
        with pytest.raises(InputError, match=r"x\.yaml"):
            check_configs(arguments)
    with pytest.raises(InputError, match="nowhere"):
        read_yaml(tmp_path / "nowhere")
