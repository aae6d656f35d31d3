"""The `diffportrait3d` command: its list of commands, dispatch and usage errors."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from diffportrait3d.commands import COMMANDS
from diffportrait3d.help_texts import parser_help


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess:
    """Run the command in a new process, after `code`."""
    start = f"import sys, atexit\nsys.argv = ['diffportrait3d', *sys.argv[1:]]\n{code}\n"
    main = "from diffportrait3d.__main__ import main\nmain()\n"
    return subprocess.run(
        [sys.executable, "-c", start + main, *arguments], capture_output=True, text=True, check=False
    )


def test_every_command_is_listed_and_is_a_module():
    listed = run("--help").stdout
    for name, command in COMMANDS.items():
        assert f"  {name} " in listed
        assert command.help in listed
        assert find_spec(command.module) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sinthesize"], "did you mean synthesize?"),
        (["import_released_"], "did you mean import-released?"),
        (["xyzzy"], "diffportrait3d --help lists them"),
        (["fit"], "nothing to train"),
        (["fit", "--trainer.max_steps=1"], "required: data and model"),
        (["fit", "--config=nowhere.yaml"], "nowhere.yaml"),
        (["synthesize", "--portriat", "me.jpg"], "--portriat: no such option"),
        (["cache-latents", "shards", "--out", "x"], "--vae missing"),
        (["import-baseline", "goae", "encoder.pt", "afa.pt", "eg3d"], "out"),
        (["import-baseline", "eg3d", "eg3d.pkl", "--out", "x"], "eg3d"),
    ],
)
def test_usage_errors_are_one_line_and_import_no_torch(arguments: list[str], message: str):
    done = run(*arguments, code="atexit.register(lambda: print('torch' in sys.modules))")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert done.stdout == "False\n"


def test_arguments_and_exit_code_are_passed_through(tmp_path):
    done = run("fit", "--help")
    assert done.returncode == 0
    assert "--ckpt_path" in done.stdout
    options = run("import-baseline", "triplanenet", "--help").stdout
    assert "--average" in options
    assert "--out" in options
    refused = run("import-baseline", "triplanenet", "nowhere.pth", "--out", str(tmp_path))
    assert refused.returncode == 2
    assert f"--out {tmp_path} exists already" in refused.stderr


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.fast_help])
def test_stored_help_matches_the_parser_and_imports_no_torch(name: str):
    done = run(name, "--help", code="atexit.register(lambda: print('torch' in sys.modules))")
    assert done.returncode == 0
    assert done.stdout == f"{parser_help(name)}False\n", "make help-texts regenerates it"
