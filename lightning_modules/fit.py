"""Training: `diffportrait3d fit --config configs/stage1.yaml [--config more.yaml] [--ckpt_path last.ckpt]`.

A YAML configures the module, the data and the trainer. Later files and flags override earlier ones, and all
override `configs/trainer/default.yaml`. `python -m lightning_modules.fit` is the same command.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InputError, one_line
from core.shipped import CONFIG_FLAG, find_configs
from core.signals import EndAtOnce, end_with_parent
from core.yaml_files import read_yaml

if TYPE_CHECKING:
    import pytorch_lightning as pl

GROUPS = ("model", "data", "trainer")
OWN_FLAGS = ("config", "name", "ckpt_path", "threads", "seed_everything", "print_config", "help")
USAGE = """\
usage: diffportrait3d fit --config FILE [--config FILE …] [--ckpt_path FILE] [--GROUP.SETTING VALUE …]

  --config FILE              configuration, such as configs/stage1.yaml; later files override earlier ones
  --ckpt_path FILE           the checkpoint to resume from, exactly
  --name NAME                the name of the run; results are in runs/NAME/version_N
  --threads N                CPU threads; all cores by default
  --seed_everything N        the seed of all random numbers
  --model.SETTING VALUE      a setting of the module, e.g. --model.learning.rate 1e-4
  --data.SETTING VALUE       a setting of the data, e.g. --data.batch_size 8
  --trainer.SETTING VALUE    a setting of Lightning's Trainer, e.g. --trainer.max_steps 1000
  --print_config             print all settings with their values, and exit
  --model.help CLASS, --data.help CLASS, --trainer.callbacks.help CLASS
                             the settings of a class, e.g. lightning_modules.appearance.AppearanceStage"""


def check_arguments(arguments: Sequence[str]) -> None:
    """Check what can be checked before Lightning is imported, which takes seconds.

    Raises InputError if there are no arguments, for unknown options, for files that are missing or not YAML,
    and if no file or flag configures a model and data.
    """
    if not arguments:
        raise InputError("nothing to train: name a configuration, e.g. --config configs/stage1.yaml")
    given: set[str] = set()
    for place, argument in enumerate(arguments):
        if not argument.startswith("--"):
            continue
        flag, assigned, value = argument.partition("=")
        group = flag.removeprefix("--").rstrip("+").partition(".")[0]
        if group not in GROUPS + OWN_FLAGS:
            raise InputError(f"{flag}: there is no such option; diffportrait3d fit --help lists them")
        given.add(group)
        value = value if assigned else "".join(arguments[place + 1 : place + 2])
        if flag == CONFIG_FLAG:
            given |= read_yaml(Path(value)).keys()
        if flag == "--ckpt_path" and value != "null" and not Path(value).is_file():
            raise InputError(f"--ckpt_path {value}: no such file")
    if missing := {"model", "data"} - given - ({"model", "data"} if "help" in str(arguments) else set()):
        raise InputError(f"required: {' and '.join(sorted(missing))}; name a --config that has them")


def run(arguments: Sequence[str]) -> "pl.Trainer | None":
    """Train, and return the trainer; None if only help was printed. Raises InputError."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return None
    arguments = find_configs(arguments)
    check_arguments(arguments)
    from lightning_modules.training import train  # Lightning, diffusers: seconds

    return train(arguments)


def main(args: Sequence[str] | None = None) -> "pl.Trainer | None":
    """`run`, with errors of the input in one line."""
    with one_line():
        return run(sys.argv[1:] if args is None else list(args))


if __name__ == "__main__":
    with one_line(), EndAtOnce():  # until `StopTogether` takes over, when training starts
        end_with_parent()
        run(sys.argv[1:])
