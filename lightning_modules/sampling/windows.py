"""Overlapping windows of views for long camera paths, with blending of their noise predictions.

Shape letters: B portraits, K views of a path, H W latent size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import InputError


@dataclass(frozen=True)
class Window:
    """The views from `start` to `stop` (exclusive) of a path, and the blending weights (stop - start,) of
    their predictions."""

    start: int
    stop: int
    weights: Tensor

    @property
    def views(self) -> slice:
        """The window as a slice of the path's views."""
        return slice(self.start, self.stop)


def windows(views: int, window: int, overlap: int | None = None) -> list[Window]:
    """Windows of at most `window` views that cover a path of `views`; neighbours share at least `overlap`
    views, by default half a window.

    All windows have the same length. Weights increase linearly from a window's ends to its middle, and those
    of each view sum to 1, so that neighbouring windows blend smoothly. Raises InputError if `views` or
    `window` is below 1 or `overlap` is not in 0 to `window` - 1.
    """
    if views < 1 or window < 1:
        raise InputError(f"{views} views in windows of {window}: give at least 1 of both")
    overlap = window // 2 if overlap is None else overlap
    if not 0 <= overlap < window:
        raise InputError(f"windows of {window} views cannot overlap by {overlap}: give 0 to {window - 1}")
    length = min(window, views)
    count = 1 if views <= window else math.ceil((views - overlap) / (window - overlap))
    starts = [round(i * (views - length) / max(count - 1, 1)) for i in range(count)]
    place = torch.arange(length)
    fade = torch.minimum(place + 1, length - place).float()
    total = torch.zeros(views)
    for start in starts:
        total[start : start + length] += fade
    return [Window(start, start + length, fade / total[start : start + length]) for start in starts]


def blend(predictions: Sequence[Tensor], path: Sequence[Window], like: Tensor) -> Tensor:
    """The weighted sum (B, K, 4, H, W) of each window's prediction (B, stop - start, 4, H, W), on the device
    and in the dtype of `like` (B, K, 4, H, W)."""
    blended = torch.zeros_like(like)
    for prediction, window in zip(predictions, path, strict=True):
        weights = window.weights.to(like).view(-1, 1, 1, 1)
        blended[:, window.views] += weights * prediction.to(like)
    return blended
