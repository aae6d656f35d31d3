"""Where a run is written down."""

import netrc
import os
from pathlib import Path

from pytorch_lightning.loggers import WandbLogger

from core.errors import InputError

WANDB_HOST = "api.wandb.ai"


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

    `id` goes on with an earlier run. Raises InputError where wandb is not installed.
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
    return WandbLogger(
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
