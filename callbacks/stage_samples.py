"""What a stage in training makes of a batch of validation frames.

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
"""A batch's views (B, K, 3, S, S) in [-1, 1], on the CPU, at its cameras, seeded by its keys."""


def sampler_of(stage: pl.LightningModule, sampling: Sampling) -> Sampler:
    """Samples with a stage's networks as they are now: stages 1 to 3 by the pipeline, from random noise or as
    `sampling` says; S renders its proxies of one portrait. Raises InputError for any other module."""
    if isinstance(getattr(stage, "denoiser", None), Denoiser):
        pipeline = pipeline_of(stage)
        return lambda batch: sample_views(pipeline, batch, sampling)
    if isinstance(getattr(stage, "prior", None), NoisePrior):
        return lambda batch: proxies(stage.prior, batch)
    raise InputError(f"Evaluation: {type(stage).__name__} cannot be sampled: take the callback out")


def sees_conditions(stage: pl.LightningModule) -> bool:
    """Whether F_cam is there to see condition images."""
    return isinstance(getattr(stage, "denoiser", None), Denoiser) and stage.denoiser.control is not None


def follows_cameras(stage: pl.LightningModule) -> bool:
    """Whether views are at the cameras asked for: by F_cam, or by S."""
    return sees_conditions(stage) or isinstance(getattr(stage, "prior", None), NoisePrior)


def pipeline_of(stage: pl.LightningModule) -> DiffPortrait3DPipeline:
    """The pipeline of the networks of stages 1 to 3."""
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
    """Views of a batch's references by the pipeline."""
    return pipeline.views(
        batch["reference"],
        batch["condition"] if pipeline.view_control is not None else None,
        seeds=[f"evaluation {key}" for key in batch["key"]],
        count=batch["camera"].shape[1],
        sampling=sampling,
    )


@torch.no_grad()
def proxies(prior: NoisePrior, batch: Batch) -> Tensor:
    """S's views of a batch's first references, frame by frame."""
    place = next(prior.parameters())
    rows = zip(batch["reference"][:, :1], batch["camera"], strict=True)
    made = [prior(reference[None].to(place), cameras[None].to(place.device)) for reference, cameras in rows]
    return torch.cat(made).float().clamp(-1, 1).cpu()
