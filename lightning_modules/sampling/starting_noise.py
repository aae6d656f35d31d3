"""Starting noise of sampling: random, or 3D-aware from proxy images (3.4).

Shape letters: B portraits, V views of a portrait, H W latent size.
"""

from collections.abc import Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from core.seeding import normal, torch_generator
from lightning_modules.sampling.schedulers import sampled_timesteps, scheduler_for
from lightning_modules.sampling.settings import Sampling


def view_noise(seeds: Sequence[int | str], views: Sequence[int], like: Tensor) -> Tensor:
    """Standard normal noise (B, V, 4, H, W) for latents `like` (…, 4, H, W).

    Each view's noise is a function of its portrait's seed and its number on the path only.
    """
    shape = like.shape[-3:]
    rows = [[normal(shape, torch_generator("noise", seed, view), like) for view in views] for seed in seeds]
    return torch.stack([torch.stack(row) for row in rows])


def step_generators(seeds: Sequence[int | str], views: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for each view of each portrait (B*V), for the noise that schedulers draw at each
    step."""
    return [torch_generator("steps", seed, view) for seed in seeds for view in views]


def diffused(latents: Tensor, noise: Tensor, schedule: SchedulerMixin) -> Tensor:
    """Diffuse clean latents, e.g. of proxy images E(Ĩ), for all T = 1000 steps (3.4).

    At the schedule's last step some signal remains (7 % of the latents' amplitude for Stable Diffusion 1.5),
    which makes the noise 3D-aware. Latents and noise have the same shape.
    """
    alpha = schedule.alphas_cumprod[schedule.config.num_train_timesteps - 1].to(latents)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def partly_noised(latents: Tensor, noise: Tensor, schedule: SchedulerMixin, settings: Sampling) -> Tensor:
    """Noise clean latents to the first sampled timestep at a strength below 1.

    They are scaled as by the scheduler of the settings. Latents and noise have the same shape (…,
    4, H, W).
    """
    scheduler = scheduler_for(schedule, settings)
    first = sampled_timesteps(scheduler, settings.strength)[:1]
    flat = scheduler.add_noise(latents.flatten(0, -4), noise.flatten(0, -4), first)
    return flat.unflatten(0, latents.shape[:-3])
