"""What the metrics of image pairs share: a score for each pair, their mean, and what could not be scored."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from metrics.catalogue import choose, metric_name


class PairMetric(Metric):
    """The mean of scores of image pairs, each of N generated images beside its truth.

    States, summed over processes: `total` (C,) float64, the sums of the scores of the pairs that could be
    scored; `scored` and `failed`, how many could be and could not. `columns` names the C scores.
    Shape letters: N pairs, C scores of a pair, S image side.
    """

    is_differentiable = False
    full_state_update = False
    symbol: ClassVar[str]
    least: ClassVar[int] = 1  # images of either kind that a result takes
    total: Tensor
    scored: Tensor
    failed: Tensor

    def __init__(self, weights: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.weights = weights
        columns = len(self.columns)
        self.add_state("total", torch.zeros(columns, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("scored", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("failed", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def label(self) -> str:
        """The metric's name, with that of its weights where they are not the standard ones."""
        return metric_name(self.symbol, self.weights)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of a pair's scores; one, the metric's own, unless it says otherwise."""
        return (self.label,)

    @property
    def least_side(self) -> int:
        """The side in pixels of the smallest image that can be scored."""
        return 1

    @property
    def seen(self) -> tuple[int, int]:
        """How many images, and how many truths, this process has seen."""
        pairs = int(self.scored + self.failed)
        return pairs, pairs

    @abstractmethod
    def scores(self, images: Tensor, truth: Tensor) -> Tensor:
        """The scores (N, C) of images (N, 3, S, S) in [-1, 1] beside their truth; NaN where a pair cannot be
        scored."""

    def update(self, images: Tensor, truth: Tensor, *, scores: Tensor | None = None) -> None:
        """Score pairs of images (N, 3, S, S) in [-1, 1], or take the `scores` (N, C) of theirs that are known
        already."""
        self.accumulate(self.scores(images, truth) if scores is None else scores)

    def accumulate(self, scores: Tensor) -> None:
        """Take account of the scores (N, C) of pairs; NaN where one could not be scored."""
        known = ~scores.isnan().any(1)
        self.total += scores[known].double().sum(0).to(self.total.device)
        self.scored += known.sum().to(self.scored.device)
        self.failed += (~known).sum().to(self.failed.device)

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The mean over the pairs that could be scored, NaN if none could; by column if there are several."""
        means = self.total / self.scored
        return means[0] if len(self.columns) == 1 else dict(zip(self.columns, means, strict=True))

    def results(self) -> dict[str, float]:
        """The means by column, and what else there is to say, over all processes."""
        with self.sync_context():
            return self.summary()

    def summary(self) -> dict[str, float]:
        """`results` of what the states hold now."""
        means = self.total / self.scored
        return dict(zip(self.columns, means.tolist(), strict=True))


def weights_for(metric: str, weights: str | None) -> str:
    """The weights asked for, or the best that this machine has. Raises InputError where it has none."""
    return weights if weights is not None else choose(metric)


def unit_range(images: Tensor) -> Tensor:
    """Images in [-1, 1] to [0, 1], float32."""
    return images.float().add(1).div(2).clamp(0, 1)
