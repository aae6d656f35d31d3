"""Base class of metrics of image pairs: a score for each pair, and the mean of those that could be scored."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from metrics.catalogue import choose, metric_name


class PairMetric(Metric):
    """The mean score of pairs of a generated image and its ground truth.

    States, summed over processes: `total` (C,) float64, the sums of scores; `scored` and `failed`, the
    numbers of pairs that could and could not be scored. `columns` names the C scores.
    Shape letters: N pairs, C scores of a pair, S image side.
    """

    is_differentiable = False
    full_state_update = False
    symbol: ClassVar[str]
    least: ClassVar[int] = 1  # images of each kind needed for a result
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
        """The metric's name, followed by that of its weights unless they are the standard ones."""
        return metric_name(self.symbol, self.weights)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a pair's scores; by default one, the metric's label."""
        return (self.label,)

    @property
    def least_side(self) -> int:
        """Side of the smallest image that can be scored, in pixels."""
        return 1

    @property
    def seen(self) -> tuple[int, int]:
        """Numbers of images and of truths that this process has added."""
        pairs = int(self.scored + self.failed)
        return pairs, pairs

    @abstractmethod
    def scores(self, images: Tensor, truth: Tensor) -> Tensor:
        """The scores (N, C) of images and their truth, both (N, 3, S, S) in [-1, 1]; NaN for pairs that
        cannot be scored."""

    def update(self, images: Tensor, truth: Tensor, *, scores: Tensor | None = None) -> None:
        """Add pairs of images (N, 3, S, S) in [-1, 1], with their `scores` (N, C) if already computed."""
        self.accumulate(self.scores(images, truth) if scores is None else scores)

    def accumulate(self, scores: Tensor) -> None:
        """Add the scores (N, C) of pairs; NaN for those that could not be scored."""
        known = ~scores.isnan().any(1)
        self.total += scores[known].double().sum(0).to(self.total.device)
        self.scored += known.sum().to(self.scored.device)
        self.failed += (~known).sum().to(self.failed.device)

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The mean over scored pairs, NaN if there are none; a dictionary by column if there are several."""
        means = self.total / self.scored
        return means[0] if len(self.columns) == 1 else dict(zip(self.columns, means, strict=True))

    def results(self) -> dict[str, float]:
        """The means by column and the metric's other results, over all processes."""
        with self.sync_context():
            return self.summary()

    def summary(self) -> dict[str, float]:
        """`results` from the current states."""
        means = self.total / self.scored
        return dict(zip(self.columns, means.tolist(), strict=True))


def weights_for(metric: str, weights: str | None) -> str:
    """`weights`, or the best available ones if None. Raises InputError if there are none."""
    return weights if weights is not None else choose(metric)


def unit_range(images: Tensor) -> Tensor:
    """Convert images from [-1, 1] to [0, 1], float32."""
    return images.float().add(1).div(2).clamp(0, 1)
