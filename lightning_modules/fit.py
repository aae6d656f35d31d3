"""Training: `python -m lightning_modules.fit --config configs/stage1.yaml [--config more.yaml] [--ckpt_path
last.ckpt]`.

A YAML names the module, the data and the trainer; later files and flags win over earlier ones.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import nn

from core.errors import InputError, one_line

TERMINATED = 128 + 15  # what a shell reports of a process that SIGTERM ended


class LoggedConfig(SaveConfigCallback):
    """Saves the configuration beside the metrics and gives it to the loggers."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Every setting of the run as hyperparameters."""
        values = yaml.safe_load(self.parser.dump(self.config))
        for logger in trainer.loggers:
            logger.log_hyperparams(values)


class FitCLI(LightningCLI):
    """LightningCLI that fits and does nothing else; any module and data of the project by class path."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(
            args=None if args is None else list(args),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            save_config_callback=LoggedConfig,
            # W&B writes a config.yaml of its own
            save_config_kwargs={"config_filename": "fit.yaml"},
            parser_kwargs={"exit_on_error": False, "prog": "python -m lightning_modules.fit"},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what a run takes beside the module, the data and the trainer."""
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to go on from, exactly."
        )
        parser.add_argument(
            "--threads",
            type=int | None,
            default=None,
            help="CPU threads for the arithmetic; all cores by default.",
        )

    def before_instantiate_classes(self) -> None:
        """Checks what can be checked before anything is built."""
        config: Namespace = self.config
        if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
            raise InputError(f"--ckpt_path {config.ckpt_path}: no such file")
        if config.threads is not None:
            torch.set_num_threads(config.threads)


def read_config(args: Sequence[str] | None = None) -> FitCLI:
    """Parse `args` (None: the command line) and build module, data and trainer.

    Raises InputError for whatever the parser refuses.
    """
    if not (sys.argv[1:] if args is None else args):
        raise InputError("nothing to train: name a configuration, e.g. --config configs/stage1.yaml")
    try:
        return FitCLI(args)
    except ArgumentError as error:
        raise InputError(_reason(error)) from error
    except ValueError as error:
        # the parser wraps what a module's own constructor raises
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _reason(error: ArgumentError) -> str:
    """The parser's message without its usage text, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("usage:"))


def report_parameters(module: nn.Module) -> str:
    """How many parameters `module` trains and holds frozen, in words."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    return f"{type(module).__name__}: {trained / 1e6:.2f} M parameters trained, {frozen / 1e6:.2f} M frozen"


def last_checkpoint(trainer: pl.Trainer) -> str:
    """The newest checkpoint that this run has written, or what to say where there is none."""
    paths = [callback.last_model_path for callback in trainer.checkpoint_callbacks]
    return next((path for path in paths if path), "(no checkpoint was written)")


def main(args: Sequence[str] | None = None) -> pl.Trainer:
    """Parse, build, fit. A user's mistake ends in one line; interrupted runs leave a checkpoint to go on
    from."""
    with one_line():
        cli = read_config(args)
        rank_zero_info(report_parameters(cli.model))
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.config.ckpt_path)
        except SIGTERMException:
            print(f"terminated; go on with --ckpt_path {last_checkpoint(cli.trainer)}", file=sys.stderr)
            raise SystemExit(TERMINATED) from None
    return cli.trainer


if __name__ == "__main__":
    main()
