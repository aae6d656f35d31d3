"""Guided DDIM sampling (4, A.2) of portraits' views.

Shape letters: B portraits, V views of a portrait, W views of a window, N = B*V, H W latent size, S image
side.
"""

from collections.abc import Callable, Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from tqdm import tqdm

from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import AppearanceReference, Bank
from lightning_modules.sampling.prediction import BankAt, Inputs, view_predictor
from lightning_modules.sampling.schedulers import (
    clean_latents,
    sampled_timesteps,
    scheduler_for,
    step_options,
)
from lightning_modules.sampling.settings import PAPER, Sampling

OnStepEnd = Callable[[int, Tensor, Tensor, Tensor | None], tuple[Tensor, bool]]
"""Called after each step with its number, its timestep, the latents (N, 4, H, W) after it, and the clean
latents that it predicts (None where the scheduler does not predict them). Returns the latents from which the
next step starts, and whether sampling ends with them instead."""


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    schedule: SchedulerMixin,
    noise: Tensor,
    settings: Sampling = PAPER,
    inputs: Inputs | None = None,
    *,
    views: int = 1,
    generators: Sequence[torch.Generator] | None = None,
    progress: bool = False,
    replicas: Sequence[Denoiser] = (),
    on_step_end: OnStepEnd | None = None,
) -> Tensor:
    """Sample clean latents (N, 4, H, W) in the VAE's scale from starting noise (N, 4, H, W).

    The paper uses 100 steps and guidance 3; the released script 50 steps and eta 0.5.

    Args:
        denoiser: F with its attached networks.
        schedule: the noise schedule, or another diffusers scheduler; see `scheduler_for`.
        noise: starting noise; at a strength below 1, latents noised to the first of the `sampled_timesteps`.
        settings: settings of sampling.
        inputs: what the views are conditioned on.
        views: V; consecutive items of `noise` are views of one portrait.
        generators: N generators for the noise that schedulers draw at each step (DDIM: with eta above 0).
        progress: show a progress bar.
        replicas: copies of `denoiser` on further devices, over which the windows are distributed.
        on_step_end: called after each step; sampling goes on with the latents that it returns.

    Raises InputError if shapes and settings do not fit.
    """
    scheduler = scheduler_for(schedule, settings)
    timesteps = sampled_timesteps(scheduler, settings.strength)
    options = step_options(scheduler, settings.eta, generators, len(noise))
    latents = noise.float() * (scheduler.init_noise_sigma if settings.strength == 1 else 1.0)
    with view_predictor((denoiser, *replicas), inputs or Inputs(), settings, len(noise), views) as predict:
        for step, timestep in enumerate(tqdm(timesteps, desc="sampling", unit="step", disable=not progress)):
            noisy = scheduler.scale_model_input(latents, timestep)
            epsilon = predict(noisy, step, timestep.item())
            result = scheduler.step(epsilon, timestep, latents, **options)
            latents = result.prev_sample
            if on_step_end is not None:
                clean = clean_latents(scheduler, result, noisy, epsilon, timestep)
                latents, ended = on_step_end(step, timestep, latents, clean)
                if ended:
                    break
    return latents


@torch.no_grad()
def portrait_bank(
    denoiser: Denoiser, reference: AppearanceReference, latents: Tensor, timestep: int | None = None
) -> Bank | BankAt:
    """The reference bank of portraits' clean latents (B, R, 4, H, W), shared by all views of a portrait.

    With a fixed `timestep`, F_ref runs once, and its bank is returned. Otherwise F_ref runs at each step's
    timestep, as in the released model, and a function of the timestep is returned. Banks hold F's keys and
    values.
    """

    @torch.no_grad()
    def bank_at(timestep: float) -> Bank:
        timesteps = torch.full((latents.shape[0],), timestep, device=latents.device)
        features = reference(latents.to(denoiser.unet.dtype), timesteps, denoiser.empty_prompt)
        return denoiser.project(features)

    return bank_at if timestep is None else bank_at(timestep)
