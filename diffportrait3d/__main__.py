"""`diffportrait3d COMMAND …`: the entry point of all commands; `python -m diffportrait3d` is the same."""

import runpy
import sys
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version

from core.errors import InputError, one_line
from core.signals import EndAtOnce
from diffportrait3d.commands import COMMANDS, GROUPS
from diffportrait3d.help_texts import check_options, stored_help

HELP = ("-h", "--help", "help")


def usage() -> str:
    """The usage text, with a line for each command."""
    width = max(map(len, COMMANDS))
    groups = [
        "\n".join([f"{title}:", *(f"  {name:<{width}}  {command.help}" for name, command in group.items())])
        for title, group in GROUPS.items()
    ]
    head = "usage: diffportrait3d COMMAND …      (diffportrait3d COMMAND --help: its options)"
    return "\n\n".join([head, *groups])


def installed_version() -> str:
    """The version of the installed package; "unknown" in a checkout that is not installed."""
    try:
        return version("diffportrait3d")
    except PackageNotFoundError:
        return "unknown"


def find_module(name: str) -> str:
    """The module of a command. Raises InputError for unknown names."""
    if name in COMMANDS:
        return COMMANDS[name].module
    near = get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "diffportrait3d --help lists them"
    raise InputError(f"{name}: there is no such command; {hint}")


def main() -> None:
    """Run a command's module like `python -m`, so that processes that it spawns can import it."""
    with one_line():
        name, *arguments = sys.argv[1:] or HELP[:1]
        if name in HELP:
            print(usage())
        elif name == "--version":
            print(f"diffportrait3d {installed_version()}")
        else:
            module = find_module(name)
            if (text := stored_help(name)) is not None:
                if {"-h", "--help"} & set(arguments):
                    print(text, end="")
                    return
                check_options(name, text, arguments)
            sys.argv[1:] = arguments
            with EndAtOnce():  # while the module is imported; it enters `one_line` again
                runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
