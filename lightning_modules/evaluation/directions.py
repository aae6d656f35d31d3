"""The direction of every logged value: whether higher or lower is better."""

import re

from pytorch_lightning.loggers import Logger, WandbLogger

from metrics.suite import higher_is_better as metric_is_better_higher

STEP = "trainer/global_step"  # Lightning's name of the training step in W&B


def higher_is_better(name: str) -> bool | None:
    """Whether a logged value such as `val/novel_view/LPIPS` is better when higher; None if it has no
    direction.

    Losses are better lower. Gains, by how much the loss grows without one of the inputs, are better higher; a
    loss without an input has no direction by itself.
    """
    last = name.rsplit("/", 1)[-1]
    if re.fullmatch(r"\w+_gain", last):
        return True
    if last in ("loss", "l2") or last.startswith("perceptual["):
        return False
    return metric_is_better_higher(last)


class WandbSummaries:
    """Defines the step and the summary (best and last value) of logged values in W&B, once for each name."""

    def __init__(self) -> None:
        self._defined: set[str] = set()

    def define(self, loggers: list[Logger], names: list[str]) -> None:
        """Define the values of these names that have a direction, for what is logged from then on."""
        new = [name for name in names if name not in self._defined and higher_is_better(name) is not None]
        self._defined |= set(new)
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                for name in new:
                    best = "max" if higher_is_better(name) else "min"
                    logger.experiment.define_metric(name, step_metric=STEP, summary=f"{best},last")
