"""Measures of the consistency of one person's views (Fig. 5): across seeds, and across the windows of a path.

Shape letters: B portraits, R references, K views of a path, S image side.
"""

from dataclasses import replace

import torch
from torch import Tensor

from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.windows import windows

LEVELS_PER_UNIT = 127.5  # 8-bit levels in one unit of [-1, 1]


def view_deviation(
    pipeline: DiffPortrait3DPipeline, references: Tensor, condition: Tensor, views: int, sampling: Sampling
) -> Tensor:
    """The standard deviation (B, S, S), in levels of 255 and averaged over colours, of `views` views at one
    camera that are sampled from different random noise.

    `references` are (B, R, 3, S, S) and `condition` (B, 3, S, S), in [-1, 1]. Views agree where the portrait
    shows the head; elsewhere (`visibility.occluded`) their agreement depends on V.
    """
    conditions = condition.unsqueeze(1).expand(-1, views, -1, -1, -1)
    seeds = list(range(len(references)))
    sampling = replace(sampling, noise="random", window=views)
    images = pipeline.views(references, conditions, seeds=seeds, sampling=sampling)
    return images.std(1).mean(1) * LEVELS_PER_UNIT


def window_seams(
    pipeline: DiffPortrait3DPipeline,
    references: Tensor,
    conditions: Tensor,
    cameras: Tensor | None,
    sampling: Sampling,
) -> dict[str, float]:
    """Mean absolute differences of neighbouring views of a path, in levels of 255.

    `across` is for pairs with a window's edge in between, `within` for all others. References are (B, R, 3,
    S, S), conditions (B, K, 3, S, S) and cameras (B, K, 25), of evenly spaced views.
    """
    path = windows(conditions.shape[1], sampling.window, sampling.overlap)
    seeds = list(range(len(references)))
    images = pipeline.views(references, conditions, cameras, seeds=seeds, sampling=sampling)
    steps = (images[:, 1:] - images[:, :-1]).abs().mean((0, 2, 3, 4)) * LEVELS_PER_UNIT  # (K - 1,)
    edges = {edge for window in path for edge in (window.start, window.stop)}
    across = torch.tensor([number in edges for number in range(1, conditions.shape[1])])
    return {"across": steps[across].mean().item(), "within": steps[~across].mean().item()}
