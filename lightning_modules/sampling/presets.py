"""Presets of sampling: settings by name, in one YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from core.errors import InputError
from core.shipped import find_shipped
from core.yaml_files import read_yaml
from lightning_modules.sampling.settings import Sampling

PRESETS = "configs/sampling/presets.yaml"
FLAG = "--preset"
HELP = f"settings of sampling by name, from {PRESETS}; those that are given as well override them"
SETTINGS = {field.name for field in fields(Sampling)}


def read_presets(path: str | Path = PRESETS) -> dict[str, dict[str, Any]]:
    """The presets in a YAML file, by name. Raises InputError if one has unknown settings, or values out of
    range."""
    presets: dict[str, dict[str, Any]] = {}
    for name, values in read_yaml(find_shipped(path)).items():
        if not isinstance(values, Mapping):
            raise InputError(f"{path}: {name}: give settings of sampling")
        if unknown := values.keys() - SETTINGS:
            raise InputError(
                f"{path}: {name}: {', '.join(sorted(map(str, unknown)))}: no setting of sampling"
            )
        try:
            Sampling(**values)
        except (InputError, TypeError) as error:
            raise InputError(f"{path}: {name}: {error}") from error
        presets[str(name)] = dict(values)
    return presets


def preset(name: str) -> dict[str, Any]:
    """The settings of a shipped preset. Raises InputError if there is none of this name."""
    presets = read_presets()
    if name not in presets:
        raise InputError(f"preset {name!r}: choose from {', '.join(presets)}")
    return presets[name]


def parse_with_preset(parser: ArgumentParser, arguments: Sequence[str], group: str = "") -> Namespace:
    """Parse a command's arguments, where the preset that they or their --config files name replaces the
    defaults of the settings of sampling, which are in `group` (such as "sampling.").

    Raises InputError if there is no preset of this name.
    """
    parsed = parser.parse_args(arguments)
    name = parsed.get(FLAG.removeprefix("--"))
    if name is None:
        return parsed
    parser.set_defaults({f"{group}{setting}": value for setting, value in preset(name).items()})
    return parser.parse_args(arguments)
