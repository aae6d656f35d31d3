"""Sampling of a stage's views of validation frames during training.

Shape letters: B frames, R references, K views, S image side.
"""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from core.errors import InputError
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.portrait import PortraitModel
from lightning_modules.networks.pretrained import Backbone
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling

Batch = dict[str, Any]
Sampler = Callable[[Batch], Tensor]
"""Maps a batch to views (B, K, 3, S, S) in [-1, 1] on the CPU, at the batch's cameras, seeded by its keys."""


def sampler_of(stage: pl.LightningModule, sampling: Sampling) -> Sampler:
    """The sampler of a stage with its current weights: the pipeline for stages 1 to 3; for the noise prior S,
    proxies from the first reference. Raises InputError for other modules."""
    if isinstance(getattr(stage, "denoiser", None), Denoiser):
        pipeline = pipeline_of(stage)
        return lambda batch: sample_views(pipeline, batch, sampling)
    if isinstance(getattr(stage, "prior", None), NoisePrior):
        return lambda batch: proxies(stage.prior, batch)
    raise InputError(f"Evaluation: {type(stage).__name__} cannot be sampled: remove the callback")


def takes_conditions(stage: pl.LightningModule) -> bool:
    """Whether the stage has F_cam, which needs condition images."""
    return isinstance(getattr(stage, "denoiser", None), Denoiser) and stage.denoiser.control is not None


def follows_cameras(stage: pl.LightningModule) -> bool:
    """Whether the stage predicts views at given cameras: with F_cam, or as S."""
    return takes_conditions(stage) or isinstance(getattr(stage, "prior", None), NoisePrior)


def pipeline_of(stage: pl.LightningModule) -> DiffPortrait3DPipeline:
    """The pipeline of a stage's networks."""
    denoiser = stage.denoiser
    backbone = Backbone(stage.vae, denoiser.unet, stage.scheduler, denoiser.empty_prompt)
    return DiffPortrait3DPipeline.of(
        PortraitModel(
            backbone,
            stage.reference,
            denoiser.control,
            denoiser.cross_view,
            reference_timestep=stage.reference_timestep,
        )
    )


def sample_views(pipeline: DiffPortrait3DPipeline, batch: Batch, sampling: Sampling) -> Tensor:
    """The pipeline's views of a batch."""
    return pipeline.views(
        batch["reference"],
        batch["condition"] if pipeline.view_control is not None else None,
        seeds=[f"evaluation {key}" for key in batch["key"]],
        count=batch["camera"].shape[1],
        sampling=sampling,
    )


@torch.no_grad()
def proxies(prior: NoisePrior, batch: Batch) -> Tensor:
    """The noise prior's views of the first reference of each frame."""
    like = next(prior.parameters())
    rows = zip(batch["reference"][:, :1], batch["camera"], strict=True)
    views = [prior(reference[None].to(like), cameras[None].to(like.device)) for reference, cameras in rows]
    return torch.cat(views).float().clamp(-1, 1).cpu()
