"""Safe reading of YAML settings: tags are not executed, and the expansion of aliases is limited."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from core.errors import InputError
from core.shipped import CONFIG_FLAG

MAX_VALUES = 100_000  # largest number of values in a file, after expansion of aliases


class _Loader(yaml.SafeLoader):
    """Refuses integers too large for a float, which a setting of type float could not convert."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        float(value)  # raises OverflowError
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read the settings in a YAML file.

    Raises InputError if the file is missing, is no YAML mapping, has more than `MAX_VALUES` values, or has a
    whole number beyond the range of floats.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise InputError(f"--config {path}: has no settings in it")
    if _count(values, {}) > MAX_VALUES:
        raise InputError(f"--config {path}: more than {MAX_VALUES} values, with its aliases expanded")
    return values


def check_configs(arguments: Sequence[str]) -> None:
    """Read every file given by `--config`. Raises InputError as `read_yaml`."""
    for place, argument in enumerate(arguments):
        flag, assigned, value = argument.partition("=")
        if flag == CONFIG_FLAG and (assigned or place + 1 < len(arguments)):
            read_yaml(Path(value if assigned else arguments[place + 1]))


def _count(tree: Any, known: dict[int, int]) -> int:
    """The number of values in a tree. `known` caches the counts of containers by id; a container that is
    being counted, and so contains itself, counts more than `MAX_VALUES`."""
    if not isinstance(tree, dict | list):
        return 1
    if id(tree) not in known:
        known[id(tree)] = MAX_VALUES + 1
        children = tree.values() if isinstance(tree, dict) else tree
        known[id(tree)] = 1 + sum(_count(child, known) for child in children)
    return known[id(tree)]
