"""Lookup of shipped files, `configs/` and `checkpoints/mini`, from any working folder."""

from collections.abc import Sequence
from pathlib import Path

# The package of the command is next to `core/` both in a checkout and installed, and holds links to the
# files.
SHIPPED = Path(__file__).resolve().parents[1] / "diffportrait3d"
CONFIG_FLAG = "--config"


def find_shipped(path: str | Path) -> Path:
    """`path`, or the shipped file or folder of that name if `path` is relative and does not exist.

    A path that is neither is returned unchanged.
    """
    path = Path(path)
    shipped = SHIPPED / path
    if path.is_absolute() or path.exists() or not shipped.exists():
        return path
    return shipped


def find_configs(arguments: Sequence[str]) -> list[str]:
    """A command's arguments, with the file of every `--config` resolved by `find_shipped`."""
    found: list[str] = []
    for argument in arguments:
        flag, assigned, value = argument.partition("=")
        if found and found[-1] == CONFIG_FLAG:
            found.append(str(find_shipped(argument)))
        elif flag == CONFIG_FLAG and assigned:
            found.append(f"{flag}={find_shipped(value)}")
        else:
            found.append(argument)
    return found
