"""Weighted means over a validation epoch, the same however many processes share the frames."""

from collections.abc import Callable

import torch
from torch import Tensor


class EpochMeans:
    """Sums and weights by name, in float64, so that neither batches nor ranks change a mean.

    Lightning's own averages what each batch gives by an integer batch size, and ranks by their number: frames
    that count would not count alike where they do not divide evenly.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Begin an epoch."""
        self._sums.clear()

    def add(self, name: str, values: Tensor, weights: Tensor) -> None:
        """Count values (B,) by their weights (B,). Values of weight 0 may be anything, NaN included."""
        values, weights = values.detach().double().cpu(), weights.double().cpu()
        values = torch.where(weights > 0, values, torch.zeros_like(values))
        sums = torch.stack([(values * weights).sum(), weights.sum()])
        self._sums[name] = self._sums.get(name, torch.zeros(2, dtype=torch.float64)) + sums

    def compute(self, reduce: Callable[[Tensor], Tensor] = torch.clone) -> dict[str, float]:
        """The means by name; those of which nothing counted are left out.

        `reduce` sums a tensor (N, 2) over processes, all of which have the same names.
        """
        if not self._sums:
            return {}
        totals = reduce(torch.stack(list(self._sums.values())))
        return {
            name: float(total / weight)
            for name, (total, weight) in zip(self._sums, totals.cpu(), strict=True)
            if weight > 0
        }
