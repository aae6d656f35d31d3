"""Presets of sampling: settings by name, in one YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

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


def chosen_preset(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings of the preset that a command's arguments name last; none if they name none."""
    chosen: str | None = None
    for place, argument in enumerate(arguments):
        flag, assigned, value = argument.partition("=")
        if flag == FLAG and (assigned or place + 1 < len(arguments)):
            chosen = value if assigned else arguments[place + 1]
    return {} if chosen is None else preset(chosen)
