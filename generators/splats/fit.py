"""3D Gaussians fitted to views with known cameras, as Kerbl et al. (2023) do, without adding or removing any.

Shape letters: K views, S image side.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from core.schema import STRICT
from generators.isosurface import Surface
from generators.splats.gaussians import Gaussians, joined
from generators.splats.rasteriser import Rasteriser, rasteriser_for
from generators.splats.start import on_sphere, on_surface
from metrics.pixels import SSIM
from portraits.pixels import Images

SSIM_SHARE = 0.2  # weight of SSIM in the loss; the rest is L1
RATES = {"means": 1e-3, "log_scales": 1e-2, "rotations": 5e-3, "opacity_logits": 5e-2, "colours": 1e-2}
LAST_RATE = 0.05  # what is left of the rates at the last step, which they approach exponentially
HELD_OUT_FIRST, HELD_OUT_EVERY = 3, 6  # the views that are not fitted: 3, 9, 15, …
LEAST_VIEWS = HELD_OUT_FIRST + 1


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit of 3D Gaussians.

    Args:
        count: largest number of Gaussians on the head; those of the surroundings are not counted
        steps: number of optimiser steps, on one view each
        seed: seed of the Gaussians' first places and of the order of the views
    """

    __pydantic_config__: ClassVar = STRICT

    count: int = 4000
    steps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("steps", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--gaussians.{name} {getattr(self, name)}: give {least} or more")


@dataclass(frozen=True)
class Fitted:
    """Gaussians of the head and of its surroundings, and how they are rendered."""

    head: Gaussians
    surroundings: Gaussians
    rasterise: Rasteriser

    @property
    def all(self) -> Gaussians:
        """The Gaussians of the head, then those of the surroundings."""
        return joined(self.head, self.surroundings)

    @torch.no_grad()
    def render(self, labels: NDArray[np.float32], side: int) -> Tensor:
        """Views (K, 3, S, S) in [-1, 1] at EG3D labels (K, 25)."""
        cameras = torch.from_numpy(labels).to(self.head.means)
        images = torch.stack([self.rasterise(self.all, camera, side).image for camera in cameras])
        return images.movedim(-1, 1).clamp(0, 1) * 2 - 1


def held_out(views: int) -> NDArray[np.bool_]:
    """The views of a path that are not fitted, as a mask (K,). Raises InputError if there are too
    few."""
    if views < LEAST_VIEWS:
        raise InputError(f"{views} views are too few for 3D Gaussians: give {LEAST_VIEWS} or more")
    return np.arange(views) % HELD_OUT_EVERY == HELD_OUT_FIRST


def fit_gaussians(
    surface: Surface,
    images: Images,
    labels: NDArray[np.float32],
    settings: FitSettings,
    device: torch.device | str = "cpu",
) -> Fitted:
    """Gaussians that look like the views (K, S, S, 3) at EG3D labels (K, 25), started on a surface.

    The surroundings have Gaussians of their own, far away, of which the colours alone are fitted.
    """
    draw = np.random.default_rng(settings.seed)
    cameras, device = torch.from_numpy(labels), torch.device(device)
    head = on_surface(surface, images, labels, settings.count, draw).to(device)
    around = on_sphere(images, cameras, surface).to(device)
    around.colours.requires_grad_(True)
    for value in head.tensors().values():
        value.requires_grad_(True)
    fitted = Fitted(head, around, rasteriser_for(device))
    order = _order(len(images), settings.steps, draw)
    _optimise(fitted, torch.from_numpy(images).to(device).float() / 255, cameras.to(device), order)
    return Fitted(head.detach(), around.detach(), fitted.rasterise)


def _order(views: int, steps: int, draw: np.random.Generator) -> list[int]:
    """The view of each step: all views in a random order, and again in another."""
    rounds = [draw.permutation(views) for _ in range(-(-steps // views))]
    return np.concatenate(rounds)[:steps].tolist() if rounds else []


def _optimise(fitted: Fitted, targets: Tensor, cameras: Tensor, order: list[int]) -> None:
    groups = [{"params": [value], "lr": RATES[name]} for name, value in fitted.head.tensors().items()]
    groups.append({"params": [fitted.surroundings.colours], "lr": RATES["colours"]})
    optimizer = torch.optim.Adam(groups, eps=1e-15)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, LAST_RATE ** (1 / max(len(order), 1)))
    ssim = SSIM()
    with tqdm(order, desc="3D Gaussians", unit="step") as bar:
        for view in bar:
            image = fitted.rasterise(fitted.all, cameras[view], targets.shape[1]).image
            loss = photometric_loss(image, targets[view], ssim)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            decay.step()
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def photometric_loss(image: Tensor, target: Tensor, ssim: SSIM) -> Tensor:
    """0.8 L1 + 0.2 (1 - SSIM) of images (S, S, 3) in [0, 1] (Kerbl et al. 2023, Eq. 7)."""
    pair = [x.movedim(-1, 0).unsqueeze(0) * 2 - 1 for x in (image, target)]
    distance = (image - target).abs().mean()
    return (1 - SSIM_SHARE) * distance + SSIM_SHARE * (1 - ssim.scores(pair[0], pair[1]).mean())
