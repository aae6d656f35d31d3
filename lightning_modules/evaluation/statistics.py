"""Means of scores with bootstrap confidence intervals, means by yaw, and the views with the worst scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lightning_modules.evaluation.scoring import Scores, ViewScore

RESAMPLES = 1000
CONFIDENCE = 0.95
YAW_EDGES = tuple(range(-90, 91, 15))  # degrees


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` views, and its 95 % confidence interval from `low` to `high`, NaN if undefined."""

    mean: float
    low: float
    high: float
    count: int


def estimates(scores: Scores, seed: int = 0) -> dict[str, Estimate]:
    """The mean over views of every metric with its interval; FID and KID without intervals, as the FID of a
    bootstrap sample is biased."""
    found = {name: interval(scores.views, name, seed) for name in metrics_of(scores.views)}
    views = len(scores.views)
    return found | {name: Estimate(value, np.nan, np.nan, views) for name, value in scores.sets.items()}


def metrics_of(views: Sequence[ViewScore]) -> list[str]:
    """The metrics for which any view has a score."""
    return list(dict.fromkeys(name for view in views for name in view.scores))


def interval(views: Sequence[ViewScore], metric: str, seed: int) -> Estimate:
    """The mean over views that could be scored, with the percentile interval of a bootstrap.

    Subjects are resampled, not views: views of one subject are not independent samples.
    """
    by_subject: dict[str, list[float]] = {}
    for view in views:
        value = view.scores.get(metric, np.nan)
        if not np.isnan(value):
            by_subject.setdefault(view.view.subject, []).append(value)
    if not by_subject:
        return Estimate(np.nan, np.nan, np.nan, 0)
    sums = np.array([[sum(values), len(values)] for values in by_subject.values()])
    mean, count = sums[:, 0].sum() / sums[:, 1].sum(), int(sums[:, 1].sum())
    if len(sums) < 2 or not np.isfinite(sums).all():
        return Estimate(float(mean), np.nan, np.nan, count)
    totals = sums[resample(len(sums), seed)].sum(1)
    return Estimate(float(mean), *percentile_interval(totals[:, 0] / totals[:, 1]), count)


def resample(count: int, seed: int) -> NDArray[np.int64]:
    """Indices (RESAMPLES, count) of bootstrap samples of `count` subjects."""
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The central interval of bootstrap values (RESAMPLES,) at the level `CONFIDENCE`."""
    tails = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tails, 1 - tails])
    return float(low), float(high)


def means_by_yaw(views: Sequence[ViewScore], metric: str) -> list[tuple[float, float, int]]:
    """The mean score by bins of yaw: (centre of the bin in degrees, mean, number of views) for every
    non-empty bin. Views without a camera, and views outside the bins of `YAW_EDGES`, are left out."""
    yaw = np.array([view.yaw for view in views])
    values = np.array([view.scores.get(metric, np.nan) for view in views])
    rows = []
    for low, high in pairwise(YAW_EDGES):
        inside = values[(yaw >= low) & (yaw < high) & np.isfinite(values)]
        if len(inside):
            rows.append(((low + high) / 2, float(inside.mean()), len(inside)))
    return rows


def worst(scores: Scores, metric: str, count: int) -> list[ViewScore]:
    """The `count` views with the worst scores, worst first, preceded by views that could not be scored."""
    sign = -1.0 if scores.higher[metric] else 1.0

    def badness(view: ViewScore) -> float:
        value = view.scores.get(metric, np.nan)
        return np.inf if np.isnan(value) else sign * value

    return sorted(scores.views, key=badness, reverse=True)[:count]
