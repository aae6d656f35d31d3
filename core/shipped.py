"""Files that come with the project, `configs/` and `checkpoints/mini`, found from any working folder."""

from collections.abc import Sequence
from pathlib import Path

# Beside `core/`, in a checkout and where pip installs: the package of the command, which holds links to them.
SHIPPED = Path(__file__).resolve().parents[1] / "diffportrait3d"
CONFIG_FLAG = "--config"


def find_shipped(path: str | Path) -> Path:
    """`path` itself; or, where it is relative and not there, the file or folder of that name that is shipped.

    A path that is neither comes back as it is.
    """
    path = Path(path)
    shipped = SHIPPED / path
    if path.is_absolute() or path.exists() or not shipped.exists():
        return path
    return shipped


def find_configs(arguments: Sequence[str]) -> list[str]:
    """A command's arguments, with the files of every `--config` found as `find_shipped` does."""
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
