"""Which way is better, of everything that a run logs."""

import re

from pytorch_lightning.loggers import Logger, WandbLogger

from metrics.suite import higher_is_better as metric_is_better_higher

STEP = "trainer/global_step"  # what Lightning calls the training's step in W&B


def higher_is_better(name: str) -> bool | None:
    """Whether a logged value such as `val/novel_view/LPIPS` is better the higher it is; None where neither
    way is.

    Losses are better lower, gains (what a part is worth to the loss) higher; a loss without something says
    nothing by itself.
    """
    last = name.rsplit("/", 1)[-1]
    if re.fullmatch(r"\w+_gain", last):
        return True
    if last in ("loss", "l2") or last.startswith("perceptual["):
        return False
    return metric_is_better_higher(last)


class BestValues:
    """Tells W&B over which step values run and which of them was the best, each value once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, loggers: list[Logger], names: list[str]) -> None:
        """Define the values of these names where one way is better. What was logged before, as `train/` is
        before the first validation, is not defined after the fact."""
        new = [name for name in names if name not in self._told and higher_is_better(name) is not None]
        self._told |= set(new)
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                for name in new:
                    best = "max" if higher_is_better(name) else "min"
                    logger.experiment.define_metric(name, step_metric=STEP, summary=f"{best},last")
