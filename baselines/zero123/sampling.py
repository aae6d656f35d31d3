"""Sampling of Zero-1-to-3, as in the original demo or in diffusers' pipeline.

Shape letters: B views, H W latent size.
"""

from collections.abc import Callable
from typing import Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from core.errors import InputError

Sampler = Literal["original", "diffusers"]

TRAINED = 1000  # timesteps
MOST_STEPS = TRAINED // 2  # with more, the grid goes beyond the last timestep
ETA: dict[Sampler, float] = {"original": 1.0, "diffusers": 0.0}

# Maps latents (B, 4, H, W) and a timestep to the guided prediction of the noise.
Predict = Callable[[Tensor, int], Tensor]
# Maps the number of a step to noise (B, 4, H, W).
StepNoise = Callable[[int], Tensor]


def timesteps_of(sampler: Sampler, steps: int) -> list[int]:
    """The sampled timesteps, from the noisiest on.

    Both grids are 1, 1 + k, 1 + 2k, … with k = 1000 // `steps`. diffusers uses `steps` of them. The original
    uses all below 1000 except the largest, although it starts from unit noise: 49 for 50 steps, from 961.
    Raises InputError for numbers of steps that leave none or exceed the last timestep.
    """
    fewest = 2 if sampler == "original" else 1
    if not fewest <= steps <= MOST_STEPS:
        raise InputError(f"{steps} sampling steps: the {sampler} sampler supports {fewest} to {MOST_STEPS}")
    stride = TRAINED // steps
    if sampler == "original":
        return list(range(1, TRAINED + 1, stride))[-2::-1]
    return [1 + stride * number for number in reversed(range(steps))]


def scheduler_of(steps: int) -> DDIMScheduler:
    """The noise schedule and DDIM's step on the grid of `timesteps_of`."""
    scheduler = DDIMScheduler(
        num_train_timesteps=TRAINED,
        beta_start=0.00085,
        beta_end=0.0120,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def sample(
    predict: Predict,
    noise: Tensor,
    sampler: Sampler = "original",
    steps: int = 50,
    eta: float | None = None,
    step_noise: StepNoise | None = None,
) -> Tensor:
    """Latents (B, 4, H, W), scaled as the VAE's, from starting noise (B, 4, H, W).

    `eta` is by default the sampler's; above 0, `step_noise` returns the noise that a step adds. Raises
    InputError for unsupported numbers of steps, and ValueError if that noise is missing.
    """
    eta = ETA[sampler] if eta is None else eta
    if eta > 0 and step_noise is None:
        raise ValueError(f"eta={eta} adds noise at every step: give step_noise")
    timesteps, scheduler = timesteps_of(sampler, steps), scheduler_of(steps)
    latents = noise
    for number, timestep in enumerate(timesteps):
        added = step_noise(number) if eta > 0 and step_noise is not None else None
        predicted = predict(latents, timestep)
        latents = scheduler.step(predicted, timestep, latents, eta=eta, variance_noise=added).prev_sample
    return latents


def guided(
    unet: Callable[..., Tensor], latents: Tensor, timestep: int, source: Tensor, context: Tensor, scale: float
) -> Tensor:
    """The prediction of the noise (B, 4, H, W) with guidance `scale`. `unet` is called with concatenated
    latents and source latents (2B, 8, H, W), timesteps and contexts; in the unconditional pass, source (B, 4,
    H, W) and projected context (B, 1, D) are zero."""
    zeros = torch.zeros_like
    conditions = torch.cat([zeros(source), source]), torch.cat([zeros(context), context])
    joined = torch.cat([latents.repeat(2, 1, 1, 1), conditions[0]], dim=1)
    without, with_them = unet(joined, timestep, conditions[1]).chunk(2)
    return without + scale * (with_them - without)
