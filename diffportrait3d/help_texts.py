"""Stored help texts of the commands, as building their parsers imports modules for seconds.

`python -m diffportrait3d.help_texts` (`make help-texts`) regenerates them; a test compares them.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from unittest import mock

from core.errors import InputError
from core.files import write_text
from diffportrait3d.commands import COMMANDS

FOLDER = Path(__file__).parent / "help"
COLUMNS = "110"
OPTION = re.compile(r"^  (?:-\w, )?(--[\w.-]+)", re.MULTILINE)
REQUIRED = re.compile(r"^  (--[\w.-]+)(?:(?!^  --).)*?\(required", re.MULTILINE | re.DOTALL)
CONFIG = "--config"


def stored_help(name: str) -> str | None:
    """The stored help of a command; None for commands with `fast_help`."""
    path = FOLDER / f"{name}.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def check_options(name: str, text: str, arguments: Sequence[str]) -> None:
    """Raise InputError for options that are not in a help text, and for missing required ones."""
    known = {option.split(".")[0] for option in OPTION.findall(text)} | {"--print_config"}
    given = [argument.split("=")[0].rstrip("+") for argument in arguments if argument.startswith("--")]
    for option in given:
        if option.split(".")[0] not in known:
            raise InputError(f"{option}: no such option; diffportrait3d {name} --help lists them")
    missing = [option for option in REQUIRED.findall(text) if option not in given]
    if missing and CONFIG not in given:
        raise InputError(f"{' and '.join(missing)} missing; see diffportrait3d {name} --help")


def parser_help(name: str) -> str:
    """The help that a command's parser prints."""
    main = import_module(COMMANDS[name].module).main
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"diffportrait3d {name}"]),
        mock.patch.dict(os.environ, {"COLUMNS": COLUMNS}),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        main(["--help"])
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join(lines).strip() + "\n"


def main() -> None:
    """Write the help texts of all commands without `fast_help`."""
    for name, command in COMMANDS.items():
        if not command.fast_help:
            write_text(FOLDER / f"{name}.txt", parser_help(name))


if __name__ == "__main__":
    main()
