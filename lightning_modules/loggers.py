"""Loggers of a run: a CSV file in its folder, and Weights & Biases."""

import csv
import itertools
import logging
import netrc
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from core.errors import InputError
from core.files import whole_file

log = logging.getLogger(__name__)

WANDB_HOST = "api.wandb.ai"
WANDB_SECONDS = 30  # timeout of W&B's server, after which a run is logged offline
STEP = "trainer/global_step"


class LogWriter(ExperimentWriter):
    """Lightning's writer of `metrics.csv`, which keeps all earlier rows if the run is killed while it writes.

    Lightning's own rewrites the file in place whenever a value with a new name is logged.
    """

    metrics: list[dict[str, Any]]
    metrics_keys: list[str]

    def save(self) -> None:
        """Append the rows logged since the last call; with a new column, rewrite the file atomically."""
        names = {name for row in self.metrics for name in row} - set(self.metrics_keys)
        if not names:
            super().save()
            return
        columns = sorted({*self.metrics_keys, *names})
        path, rows = Path(self.metrics_file_path), list[dict[str, Any]]()
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows([*rows, *self.metrics])
        self.metrics_keys, self.metrics = columns, []

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write `hparams.yaml` atomically."""
        self.hparams.update(params)
        with whole_file(Path(self.log_dir, self.NAME_HPARAMS_FILE)) as partial:
            save_hparams_to_yaml(str(partial), self.hparams)


class RunLogger(CSVLogger):
    """Lightning's CSV logger, with a unique version folder even if two runs start at the same moment."""

    _version: int | str | None
    _experiment: LogWriter | None

    @property
    @rank_zero_experiment
    def experiment(self) -> LogWriter:
        """The writer of the log, created on first access."""
        if self._experiment is None:
            self._experiment = LogWriter(self.log_dir)
        return self._experiment

    @property
    def version(self) -> int | str:
        """The version number of the run; its folder is created on first access."""
        if self._version is None:
            self._version = reserve_version(Path(self.root_dir))
        return self._version


def reserve_version(folder: Path) -> int:
    """Create a new `version_<n>` in `folder` on rank zero, and return n; other ranks get the newest."""
    numbers = [int(path.name.split("_")[1]) for path in folder.glob("version_*") if path.name[8:].isdigit()]
    newest = max(numbers, default=-1)
    if rank_zero_only.rank != 0:
        return max(newest, 0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(newest + 1):
        with suppress(FileExistsError):
            (folder / f"version_{number}").mkdir()
            return number
    raise AssertionError


class OfflineWandbLogger(WandbLogger):
    """Lightning's W&B logger, which falls back to offline mode if the server cannot be reached."""

    _experiment: Any

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started on first access."""
        if self._experiment is None:
            settings = {name: value for name, value in self._wandb_init.items() if name != "anonymous"}
            self._experiment = start_wandb(settings, self._offline)
            self._experiment.define_metric(STEP)
            self._experiment.define_metric("*", step_metric=STEP, step_sync=True)
        return self._experiment


def start_wandb(settings: dict[str, Any], offline: bool) -> Any:
    """Start a W&B run with these settings of `wandb.init`: online, or offline if `offline` or without a
    server."""
    import wandb

    if not offline:
        try:
            return wandb.init(**settings, settings=wandb.Settings(init_timeout=WANDB_SECONDS))
        except wandb.errors.Error as error:
            reason = str(error).split("\n", 1)[0]
            log.warning("W&B cannot be reached (%s); the run is offline: `wandb sync` uploads it", reason)
    return wandb.init(**settings, mode="offline")


def run_loggers(root: str | None, name: str) -> list[CSVLogger | WandbLogger]:
    """The loggers of the run `name`: `<root>/<name>/version_<n>/metrics.csv`, and W&B's files in the same
    folder.

    Raises InputError if wandb is not installed.
    """
    root = root or "runs"
    return [RunLogger(root, name), wandb_logger(str(Path(root, name)), group=name)]


def wandb_logger(
    save_dir: str,
    project: str = "diffportrait3d",
    name: str | None = None,
    group: str | None = None,
    id: str | None = None,
    offline: bool | None = None,
) -> WandbLogger:
    """A W&B logger that never prompts: by default offline unless this machine is logged in; `offline` and
    WANDB_MODE override this.

    `id` continues an earlier run. Raises InputError if wandb is not installed.
    """
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise InputError(
            "trainer.logger has W&B: pip install wandb, or remove it (the CSV log stays)"
        ) from None
    if offline is None and "WANDB_MODE" not in os.environ:
        offline = not logged_in()
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    return OfflineWandbLogger(
        save_dir=save_dir,
        project=project,
        name=name,
        group=group,
        id=id,
        offline=bool(offline),
        log_model=False,
    )


def logged_in() -> bool:
    """Whether W&B finds an API key without prompting: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False
