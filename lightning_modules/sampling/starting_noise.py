"""Where sampling starts: random noise, or noise that knows where things are (3.4, 3D-aware noise).

Shape letters: B portraits, V views of a portrait, H W latent size.
"""

from collections.abc import Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from core.seeding import normal, torch_generator
from lightning_modules.sampling.ddim import scheduler_for, timesteps_of


def view_noise(seeds: Sequence[int | str], views: Sequence[int], like: Tensor) -> Tensor:
    """Standard normal noise (B, V, 4, H, W), of the latents `like` (…, 4, H, W): for each portrait's seed and
    each view's number on the path its own, so that it does not matter which others are drawn with it."""
    shape = like.shape[-3:]
    rows = [[normal(shape, torch_generator("noise", seed, view), like) for view in views] for seed in seeds]
    return torch.stack([torch.stack(row) for row in rows])


def step_generators(seeds: Sequence[int | str], views: Sequence[int]) -> list[torch.Generator]:
    """A (CPU) generator for each view of each portrait (B·V), of what schedulers draw on the way."""
    return [torch_generator("steps", seed, view) for seed in seeds for view in views]


def diffused(latents: Tensor, noise: Tensor, schedule: SchedulerMixin) -> Tensor:
    """Clean latents, e.g. of proxy images E(Ĩ), diffused for all T = 1000 steps (3.4).

    The schedule's last signal is not zero (Stable Diffusion 1.5: 7 % of the latents' amplitude), and it is
    what says which colour is where. Latents and noise have one shape.
    """
    alpha = schedule.alphas_cumprod[schedule.config.num_train_timesteps - 1].to(latents)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def half_noised(
    latents: Tensor, noise: Tensor, schedule: SchedulerMixin, steps: int, strength: float
) -> Tensor:
    """Clean latents noised to the first timestep that is sampled at a `strength` below 1 (`timesteps_of`), as
    the scheduler that takes `steps` scales them. Latents and noise have one shape (…, 4, H, W)."""
    scheduler = scheduler_for(schedule, steps)
    first = timesteps_of(scheduler, strength)[:1]
    flat = scheduler.add_noise(latents.flatten(0, -4), noise.flatten(0, -4), first)
    return flat.unflatten(0, latents.shape[:-3])
