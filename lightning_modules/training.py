"""Implementation of `fit`: builds module, data and trainer with LightningCLI, and runs them."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import nn

from core.errors import InputError
from core.files import write_text
from core.shipped import find_configs, find_shipped
from datamodules.transport import worker_faults
from lightning_modules.interruptions import StopTogether, ended_together, peer_faults
from lightning_modules.loggers import reserve_version, run_loggers
from lightning_modules.optimization import Learning
from lightning_modules.parts import check_checkpoint
from lightning_modules.quiet import quiet_lightning

TRAINER_DEFAULTS = "configs/trainer/default.yaml"


class LoggedConfig(SaveConfigCallback):
    """Saves the configuration beside the metrics, atomically, and gives it to the loggers."""

    folder: Path

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Determines the run's folder, on all ranks, as Lightning broadcasts it, and saves the configuration
        on one."""
        assert trainer.log_dir is not None  # it has loggers, or a root folder
        self.folder = Path(trainer.log_dir)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Every setting of the run, as a file and as hyperparameters."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / self.config_filename, self.parser.dump(self.config, skip_unset=False))
        values = yaml.safe_load(self.parser.dump(self.config))
        for logger in trainer.loggers:
            logger.log_hyperparams(values)


class FitCLI(LightningCLI):
    """LightningCLI with only `fit`, for any of the project's modules and data modules by class path."""

    def __init__(self, args: Sequence[str]) -> None:
        self.scratch: TemporaryDirectory | None = None
        self.stop = StopTogether()
        super().__init__(
            args=list(args),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            trainer_defaults={"callbacks": self.stop},
            save_config_callback=LoggedConfig,
            # W&B writes its own config.yaml
            save_config_kwargs={"config_filename": "fit.yaml", "save_to_log_dir": False},
            parser_kwargs={
                "exit_on_error": False,
                "prog": "diffportrait3d fit",
                "default_config_files": [str(find_shipped(TRAINER_DEFAULTS))],
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's options besides those of module, data and trainer."""
        parser.add_argument(
            "--name", type=str, default="fit", help="Name of the run; results are in runs/<name>/version_<n>."
        )
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to resume from, exactly."
        )
        parser.add_argument(
            "--threads",
            type=int | None,
            default=None,
            help="CPU threads; all cores by default.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses `args`; Lightning's own method warns that they are not those of the process."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Checks what can be checked before anything is built."""
        config: Namespace = self.config
        if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
            raise InputError(f"--ckpt_path {config.ckpt_path}: no such file")
        if learning := config.model.init_args.get("learning"):
            Learning(**learning.as_dict()).check()
        if config.threads is not None:
            torch.set_num_threads(config.threads)

    def instantiate_classes(self) -> None:
        """Builds module, data and trainer with the parser's current method."""
        self.config_init = self.parser.instantiate(self.config)
        self.datamodule, self.model = (
            self._get(self.config_init, "data"),
            self._get(self.config_init, "model"),
        )
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Builds the trainer: with the run's loggers unless others are configured, or with a version folder
        if logging is turned off. A `fast_dev_run` writes into a temporary folder."""
        settings, name = self.config_init.trainer, self.config_init.name
        if settings.fast_dev_run:
            self.scratch = TemporaryDirectory(prefix="diffportrait3d-")
            kwargs |= {"logger": False, "default_root_dir": self.scratch.name}
        elif settings.logger is None or settings.logger is True:
            kwargs["logger"] = run_loggers(settings.default_root_dir, name)
        elif settings.logger is False:
            folder = Path(settings.default_root_dir or "runs", name)
            kwargs["default_root_dir"] = str(folder / f"version_{reserve_version(folder)}")
        if settings.enable_checkpointing is False:
            given = settings.callbacks or []
            given = given if isinstance(given, list) else [given]
            kwargs["callbacks"] = [callback for callback in given if not isinstance(callback, Checkpoint)]
        return super().instantiate_trainer(**kwargs)


class SettingsOnly(FitCLI):
    """Parses the settings of a run, and builds nothing."""

    def before_instantiate_classes(self) -> None:
        """Nothing is built."""

    def instantiate_classes(self) -> None:
        """Nothing is built."""


def read_config(args: Sequence[str], cli: type[FitCLI] = FitCLI) -> FitCLI:
    """Parse `args` and build module, data and trainer.

    Raises InputError for invalid arguments.
    """
    try:
        return cli(find_configs(args))
    except ArgumentError as error:
        raise InputError(_reason(error)) from error
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
        for cause in _causes(error):
            if isinstance(cause, InputError):
                raise cause from None
            if isinstance(cause, MisconfigurationException | ModuleNotFoundError):
                raise InputError(f"the trainer's settings: {cause}") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes; the parser wraps what a class of the settings raises, once or twice."""
    while error is not None:
        yield error
        error = error.__cause__


def _reason(error: ArgumentError) -> str:
    """The parser's message without its usage text, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("usage:"))


def report_parameters(module: nn.Module) -> str:
    """A line with the numbers of trained and frozen parameters."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    return f"{type(module).__name__}: {trained / 1e6:.2f} M parameters trained, {frozen / 1e6:.2f} M frozen"


def train(args: Sequence[str]) -> pl.Trainer:
    """Parse, build and fit. Interrupted runs leave a checkpoint to resume from. Raises InputError."""
    quiet_lightning()
    cli = read_config(args)
    ckpt_path = cli.config.ckpt_path
    if ckpt_path is not None:
        check_checkpoint(Path(ckpt_path))
    rank_zero_info(report_parameters(cli.model))
    try:
        with ended_together(cli.trainer, cli.stop), worker_faults(), restore_faults(ckpt_path), peer_faults():
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=ckpt_path)
    except MisconfigurationException as error:
        raise InputError(f"the trainer's settings: {error}") from error
    finally:
        if cli.scratch is not None:
            cli.scratch.cleanup()
    return cli.trainer


@contextmanager
def restore_faults(ckpt_path: str | None) -> Iterator[None]:
    """Raise InputError if Lightning cannot restore its state from a checkpoint, which is not validated
    otherwise."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        restoring = [code for code in codes if Path(code.co_filename).name == "checkpoint_connector.py"]
        if not any("restore" in code.co_name or "resume" in code.co_name for code in restoring):
            raise
        raise InputError(
            f"--ckpt_path {ckpt_path}: this run cannot be resumed from it: {type(error).__name__}: {error}"
        ) from error
