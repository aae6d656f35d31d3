"""Weighted means over a validation epoch, independent of the number of processes."""

from collections.abc import Callable

import torch
from torch import Tensor


class EpochMeans:
    """Weighted sums by name in float64, so that means depend on neither batches nor ranks.

    Lightning's own averaging weights batches by an integer batch size and ranks equally, so that frames would
    have different weights if they do not divide evenly.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Clear all sums for a new epoch."""
        self._sums.clear()

    def add(self, name: str, values: Tensor, weights: Tensor) -> None:
        """Add values (B,) with weights (B,). Values of weight 0 are ignored, even if NaN."""
        values, weights = values.detach().cpu().double(), weights.cpu().double()
        values = torch.where(weights > 0, values, torch.zeros_like(values))
        sums = torch.stack([(values * weights).sum(), weights.sum()])
        self._sums[name] = self._sums.get(name, torch.zeros(2, dtype=torch.float64)) + sums

    def compute(self, reduce: Callable[[Tensor], Tensor] = torch.clone) -> dict[str, float]:
        """The means by name; names of total weight 0 are left out.

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
