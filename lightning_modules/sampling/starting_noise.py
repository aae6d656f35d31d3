"""Where sampling starts: random noise, or noise that knows where things are (3.4, 3D-aware noise).

Shape letters: B portraits, V views of a portrait, H W latent size.
"""

from collections.abc import Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from lightning_modules.draws import generator, normal


def view_noise(seeds: Sequence[int | str], views: Sequence[int], like: Tensor, name: str = "noise") -> Tensor:
    """Standard normal noise (B, V, 4, H, W), of the latents `like` (…, 4, H, W): for each portrait's seed and
    each view's number on the path its own, so that it does not matter which others are drawn with it."""
    shape = like.shape[-3:]
    rows = [[normal(shape, generator(name, seed, view), like) for view in views] for seed in seeds]
    return torch.stack([torch.stack(row) for row in rows])


def diffused(latents: Tensor, noise: Tensor, schedule: SchedulerMixin, timestep: int | None = None) -> Tensor:
    """Clean latents, e.g. of proxy images E(Ĩ), diffused to `timestep`, or for all T = 1000 steps (3.4).

    The schedule's last signal is not zero (Stable Diffusion 1.5: 7 % of the latents' amplitude), and it is
    what says which colour is where. Latents and noise have one shape.
    """
    last = schedule.config.num_train_timesteps - 1
    alpha = schedule.alphas_cumprod[last if timestep is None else timestep].to(latents)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
