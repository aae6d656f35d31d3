"""How well views of one person agree: at a window's boundary, and where the portrait says nothing.

Shape letters: B portraits, K views of a path, S image side.
"""

from dataclasses import replace

import torch
from torch import Tensor

from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.windows import windows

LEVELS = 127.5  # of the 255 of a pixel, in one unit of [-1, 1]


def spread(
    pipeline: DiffPortrait3DPipeline, references: Tensor, condition: Tensor, views: int, sampling: Sampling
) -> Tensor:
    """How far apart `views` views of one camera are that start from different random noise: the standard
    deviation among them (B, S, S), of 255 levels, the mean of the colours.

    `references` are (B, R, 3, S, S) and `condition` (B, 3, S, S), in [-1, 1]. What the portrait shows, the
    views have in common; the rest (`visibility.hidden`) each makes up, unless V makes them agree (Fig. 5).
    """
    conditions = condition.unsqueeze(1).expand(-1, views, -1, -1, -1)
    seeds = list(range(len(references)))
    sampling = replace(sampling, noise="random", window=views)
    made = pipeline.views(references, conditions, seeds=seeds, sampling=sampling)
    return made.std(1).mean(1) * LEVELS


def seam(
    pipeline: DiffPortrait3DPipeline,
    references: Tensor,
    conditions: Tensor,
    cameras: Tensor | None,
    sampling: Sampling,
) -> dict[str, float]:
    """Mean differences of neighbouring views of a path, of 255 levels: where a window begins or ends between
    them (`across`), and where none does (`within`).

    References are (B, R, 3, S, S), conditions (B, K, 3, S, S) and cameras (B, K, 25) of a path of evenly
    spaced views. Without overlap every window ends where the next begins.
    """
    plan = windows(conditions.shape[1], sampling.window, sampling.overlap)
    seeds = list(range(len(references)))
    made = pipeline.views(references, conditions, cameras, seeds=seeds, sampling=sampling)
    steps = (made[:, 1:] - made[:, :-1]).abs().mean((0, 2, 3, 4)) * LEVELS  # (K - 1,)
    edges = {edge for window in plan for edge in (window.start, window.stop)}
    across = torch.tensor([number in edges for number in range(1, conditions.shape[1])])
    return {"across": steps[across].mean().item(), "within": steps[~across].mean().item()}
