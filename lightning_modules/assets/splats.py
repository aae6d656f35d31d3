"""3D Gaussians of a run, scored on views that were held out of their fit. K views, S image side."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.files import write_json
from generators.isosurface import Surface, Unit
from generators.splats.files import write_splats
from generators.splats.fit import FitSettings, fit_gaussians, held_out
from lightning_modules.assets.head import Head
from lightning_modules.assets.run import Run
from lightning_modules.evaluation.tables import ARROWS
from metrics.perceptual import LPIPS
from metrics.pixels import PSNR
from portraits.contact_sheet import camera_captions, save_whole, view_sheet
from portraits.pixels import to_images, to_pixels

SPLATS, SCORES, SHEET = "head_splats.ply", "splats.json", "splats.png"
TRUTH, GAUSSIANS, PRIOR = "generated", "3D Gaussians", "S"

Scores = dict[str, dict[str, float]]
"""Means over held-out views, by system and metric."""


def make_splats(
    run: Run, head: Head, surface: Surface, settings: FitSettings, folder: Path, unit: Unit
) -> Scores:
    """Fit 3D Gaussians to five sixths of a run's views and write those of the head.

    Writes `head_splats.ply`; `splats.json`, the scores on the other views of the Gaussians and of S, whose
    truths are the generated views; and `splats.png`, these views side by side. The scores are returned.
    """
    assert run.cameras is not None
    kept = held_out(len(run.cameras))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fitted = fit_gaussians(surface, run.images[~kept], run.cameras[~kept], settings, device)
    cameras, truths = run.cameras[kept], to_pixels(run.images[kept])
    views = {GAUSSIANS: fitted.render(cameras, run.side).cpu(), PRIOR: head.views(cameras)}
    scores = {name: score_views(images, truths) for name, images in views.items()}
    write_splats(fitted.head, folder / SPLATS, unit)
    write_json(folder / SCORES, {"held_out": np.flatnonzero(kept).tolist(), "scores": scores})
    rows = {
        name: [Image.fromarray(x) for x in to_images(images)]
        for name, images in {TRUTH: truths, **views}.items()
    }
    save_whole(view_sheet(run.portraits, rows, camera_captions(cameras)), folder / SHEET)
    return scores


def score_views(images: Tensor, truths: Tensor) -> dict[str, float]:
    """PSNR in dB and LPIPS of views (K, 3, S, S) in [-1, 1], by name: means over views."""
    scores: dict[str, float] = {}
    for metric in (PSNR(), LPIPS()):
        if truths.shape[-1] >= metric.least_side:
            metric.update(images, truths)
            scores |= metric.results()
    return scores


def score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The scores as a Markdown table."""
    higher = {metric.label: metric.higher_is_better for metric in (PSNR(), LPIPS())}
    names = list(dict.fromkeys(name for row in scores.values() for name in row))
    lines = [
        f"| held-out views | {' | '.join(name + ARROWS[higher[name]] for name in names)} |",
        "|---|" + "---:|" * len(names),
        *(
            f"| {system} | {' | '.join(f'{row[name]:.4g}' for name in names)} |"
            for system, row in scores.items()
        ),
    ]
    return "\n".join(lines)
