"""Paths longer than what V has been trained on: overlapping windows of views, whose predictions are blended.

Shape letters: K views of a path.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import InputError


@dataclass(frozen=True)
class Window:
    """The views from `start` to `stop` (exclusive), and what each one's prediction weighs (stop - start,)."""

    start: int
    stop: int
    weights: Tensor

    @property
    def views(self) -> slice:
        """Where the window is on the path."""
        return slice(self.start, self.stop)


def windows(views: int, window: int, overlap: int | None = None) -> list[Window]:
    """Windows of at most `window` views that cover a path of `views`, neighbours sharing at least `overlap`,
    or half a window.

    All are equally long. A prediction weighs more in the middle of its window than at the ends, and the
    weights of each view sum to 1: going along the path, one window fades into the next. Raises InputError
    where the numbers do not fit.
    """
    if views < 1 or window < 1:
        raise InputError(f"{views} views in windows of {window}: both are at least 1")
    overlap = window // 2 if overlap is None else overlap
    if not 0 <= overlap < window:
        raise InputError(f"windows of {window} views cannot overlap by {overlap}: take 0 to {window - 1}")
    length = min(window, views)
    count = 1 if views <= window else math.ceil((views - overlap) / (window - overlap))
    starts = [round(i * (views - length) / max(count - 1, 1)) for i in range(count)]
    place = torch.arange(length)
    fade = torch.minimum(place + 1, length - place).float()
    total = torch.zeros(views)
    for start in starts:
        total[start : start + length] += fade
    return [Window(start, start + length, fade / total[start : start + length]) for start in starts]
