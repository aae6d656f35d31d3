"""YAML files of settings, read safely: no tags are executed, and aliases cannot multiply without end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from core.errors import InputError
from core.shipped import CONFIG_FLAG

MAX_VALUES = 100_000  # aliases counted as often as they are used


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The settings in a YAML file.

    Raises InputError where there is no file, it is not YAML or not a mapping, or it is larger than settings
    are once its aliases are replaced.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise InputError(f"--config {path}: has no settings in it")
    if _count(values, {}) > MAX_VALUES:
        raise InputError(f"--config {path}: its aliases make more than {MAX_VALUES} values of it")
    return values


def check_configs(arguments: Sequence[str]) -> None:
    """Raise InputError, as `read_yaml` does, on a file that a command's arguments name by `--config`."""
    for place, argument in enumerate(arguments):
        flag, assigned, value = argument.partition("=")
        if flag == CONFIG_FLAG and (assigned or place + 1 < len(arguments)):
            read_yaml(Path(value if assigned else arguments[place + 1]))


def _count(tree: Any, known: dict[int, int]) -> int:
    """The number of values in a tree; `known` has the counts of containers by id, of those that are being
    counted, which hold themselves, more than any file may have."""
    if not isinstance(tree, dict | list):
        return 1
    if id(tree) not in known:
        known[id(tree)] = MAX_VALUES + 1
        children = tree.values() if isinstance(tree, dict) else tree
        known[id(tree)] = 1 + sum(_count(child, known) for child in children)
    return known[id(tree)]
