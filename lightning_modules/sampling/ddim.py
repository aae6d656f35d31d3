"""DDIM with classifier-free guidance, as the paper samples (4, A.2) and the released sampler does.

Shape letters: B portraits, V views of a portrait, N = B*V, H W latent size, S image side.
"""

from collections.abc import Callable

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from tqdm import tqdm

from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import AppearanceReference, Bank
from shards.errors import InputError

BankAt = Callable[[int], Bank]
"""The bank to read at a timestep."""


def ddim(schedule: ConfigMixin, steps: int) -> DDIMScheduler:
    """A DDIM scheduler over the noise schedule of any diffusers scheduler, on the released grid of timesteps.

    The grid starts at 1 and `steps` of it, evenly spaced, are taken: 50 of 1000 are 1, 21, … 981. Raises
    InputError on a number of steps that the schedule does not have.
    """
    trained = schedule.config.num_train_timesteps
    if not 0 < steps <= trained // 2:  # beyond a half, the grid never reaches the last timestep
        raise InputError(f"{steps} sampling steps: take 1 to {trained // 2}")
    betas = ("beta_start", "beta_end", "beta_schedule", "trained_betas")
    scheduler = DDIMScheduler(
        num_train_timesteps=trained,
        **{name: schedule.config[name] for name in betas},
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="leading",
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def portrait_bank(
    denoiser: Denoiser, reference: AppearanceReference, latents: Tensor, timestep: int | None = None
) -> Bank | BankAt:
    """The bank of portraits' clean latents (B, R, 4, H, W) for `sample`, once for all of a portrait's views.

    F_ref sees the current timestep, as released, and so runs once a step; with a fixed `timestep` it runs
    now and never again, and its features are F's keys and values already.
    """

    @torch.no_grad()
    def bank_at(timestep: int) -> Bank:
        timesteps = torch.full((latents.shape[0],), timestep, device=latents.device)
        return reference(latents.to(denoiser.unet.dtype), timesteps, denoiser.empty_prompt)

    return bank_at if timestep is None else denoiser.project(bank_at(timestep))


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    schedule: ConfigMixin,
    noise: Tensor,
    *,
    views: int = 1,
    bank: Bank | BankAt | None = None,
    condition: Tensor | None = None,
    steps: int = 50,
    guidance: float = 3.0,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Clean latents (N, 4, H, W), scaled as the VAE's, from starting noise (N, 4, H, W).

    `views` consecutive items are of one portrait, `bank` as `portrait_bank` makes it for those B portraits,
    and `condition` their images (N, 3, S, S) in [-1, 1] for F_cam. The unconditional pass of guidance sees
    neither of the two (paper: guidance 3, 100 steps; released script: 50 steps, eta 0.5); it is left out
    where it would weigh nothing or be the same. The same noise, and with `eta` above 0 the same generator,
    give the same latents. Raises InputError on shapes and settings that do not fit.
    """
    if eta > 0 and generator is None:
        raise InputError(f"eta={eta} draws noise at each step: give a generator, or eta=0")
    scheduler = ddim(schedule, steps)
    hint = None if condition is None else denoiser.embed_condition(condition.to(denoiser.unet.dtype))
    guided = guidance != 1 and (bank is not None or hint is not None)
    latents = noise.float()
    for timestep in tqdm(scheduler.timesteps.tolist(), desc="sampling", unit="step", disable=not progress):
        inputs = latents.to(denoiser.unet.dtype), torch.full((len(latents),), timestep, device=latents.device)
        current = bank(timestep) if callable(bank) else bank
        epsilon = denoiser(*inputs, current, hint=hint, views=views).float()
        if guided:
            unconditional = denoiser(*inputs, views=views).float()
            epsilon = unconditional + guidance * (epsilon - unconditional)
        latents = scheduler.step(epsilon, timestep, latents, eta=eta, generator=generator).prev_sample
    return latents
