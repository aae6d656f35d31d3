"""Where a run is logged: a CSV file in its folder, and Weights & Biases."""

import logging
import netrc
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from core.errors import InputError

log = logging.getLogger(__name__)

WANDB_HOST = "api.wandb.ai"
WANDB_SECONDS = 30  # to wait for W&B's server before a run goes on offline
STEP = "trainer/global_step"


class RunLogger(CSVLogger):
    """Lightning's CSV logger in a version folder of its own, also where two runs start at the same moment."""

    @property
    def version(self) -> int | str:
        """The number of the run; its folder is made when it is first asked for."""
        if self._version is None:
            self._version = self._get_next_version()
            while rank_zero_only.rank == 0 and not self._reserve():
                self._version += 1
        return self._version

    def _reserve(self) -> bool:
        folder = Path(self.root_dir, f"version_{self._version}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            return False
        return True


class OfflineWandbLogger(WandbLogger):
    """Lightning's W&B logger, which goes on offline where the server cannot be reached."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started when it is first asked for."""
        if self._experiment is None:
            settings = {name: value for name, value in self._wandb_init.items() if name != "anonymous"}
            self._experiment = start_wandb(settings, self._offline)
            self._experiment.define_metric(STEP)
            self._experiment.define_metric("*", step_metric=STEP, step_sync=True)
        return self._experiment


def start_wandb(settings: dict[str, Any], offline: bool) -> Any:
    """A W&B run with these settings of `wandb.init`: online, or offline where asked or the server is away."""
    import wandb

    if not offline:
        try:
            return wandb.init(**settings, settings=wandb.Settings(init_timeout=WANDB_SECONDS))
        except wandb.errors.Error as error:
            reason = str(error).split("\n", 1)[0]
            log.warning("W&B is out of reach (%s): the run is kept offline; `wandb sync` uploads it", reason)
    return wandb.init(**settings, mode="offline")


def run_loggers(root: str | None, name: str) -> list[CSVLogger | WandbLogger]:
    """The loggers of a run called `name`: `<root>/<name>/version_<n>/metrics.csv`, and W&B's files beside it.

    Raises InputError where wandb is not installed.
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
    """A W&B logger that never asks: offline unless this machine is logged in, or as `offline` or WANDB_MODE
    says.

    `id` continues an earlier run. Raises InputError where wandb is not installed.
    """
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise InputError(
            "trainer.logger names W&B: pip install wandb, or take it out (the CSV log stays)"
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
    """Whether W&B finds a key without asking: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False
