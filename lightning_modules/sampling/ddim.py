"""Sampling with classifier-free guidance: DDIM as the paper samples (4, A.2) and the released sampler does,
or any other diffusers scheduler.

Shape letters: B portraits, V views of a portrait, N = B*V, H W latent size, S image side.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import AppearanceReference, Bank
from lightning_modules.sampling.prediction import BankAt, Prediction, lanes
from lightning_modules.sampling.windows import windows

NEEDED = ("alphas_cumprod", "add_noise", "init_noise_sigma", "scale_model_input")  # of a scheduler


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


def scheduler_for(schedule: SchedulerMixin, steps: int) -> SchedulerMixin:
    """A fresh scheduler set to `steps`: DDIM where `schedule` is a training schedule (DDPM), otherwise one as
    it is configured. Raises InputError on a number of steps it does not take, and on schedulers that do not
    step from predictions of ε or whose noise cannot be seeded for each view."""
    if isinstance(schedule, DDPMScheduler):
        return ddim(schedule, steps)
    name, trained = type(schedule).__name__, schedule.config.get("num_train_timesteps", 0)
    _check_schedule(schedule)
    if not 0 < steps <= trained:
        raise InputError(f"{steps} sampling steps: take 1 to {trained}")
    scheduler = type(schedule).from_config(schedule.config)
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise InputError(f"{steps} sampling steps: {name}: {error}") from error
    return scheduler


def _check_schedule(schedule: SchedulerMixin) -> None:
    name = type(schedule).__name__
    whole = all(hasattr(schedule, part) for part in NEEDED) and "Inverse" not in name
    extra = [
        x for x in list(inspect.signature(schedule.step).parameters.values())[3:] if x.default is x.empty
    ]
    if not whole or extra or schedule.config.get("prediction_type") != "epsilon":
        raise InputError(f"{name}: it does not step from predictions of the noise, which F makes; DDIM does")
    if hasattr(schedule, "noise_sampler"):
        raise InputError(f"{name}: it draws noise of its own, not by each view's seed; EulerAncestral can")
    if schedule.config.get("skip_prk_steps") is False:
        raise InputError(f"{name}: its Runge-Kutta steps cannot start midway: set skip_prk_steps")


def timesteps_of(scheduler: SchedulerMixin, strength: float) -> Tensor:
    """The timesteps that are sampled: all, or at a `strength` below 1 that share of the steps, the last ones.

    Raises InputError on a strength outside of (0, 1].
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength {strength:g}: give more than 0, and at most 1")
    steps = scheduler.num_inference_steps
    left_out = steps - max(1, round(strength * steps))
    return scheduler.timesteps[left_out * scheduler.order :]


@torch.no_grad()
def portrait_bank(
    denoiser: Denoiser, reference: AppearanceReference, latents: Tensor, timestep: int | None = None
) -> Bank | BankAt:
    """The bank of portraits' clean latents (B, R, 4, H, W) for `sample`, once for all of a portrait's views.

    F_ref sees the current timestep, as released, and so runs once a step; with a fixed `timestep` it runs
    now and never again. Its features are F's keys and values already, however many windows read them.
    """

    @torch.no_grad()
    def bank_at(timestep: float) -> Bank:
        timesteps = torch.full((latents.shape[0],), timestep, device=latents.device)
        features = reference(latents.to(denoiser.unet.dtype), timesteps, denoiser.empty_prompt)
        return denoiser.project(features)

    return bank_at if timestep is None else bank_at(timestep)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    schedule: SchedulerMixin,
    noise: Tensor,
    *,
    views: int = 1,
    bank: Bank | BankAt | None = None,
    condition: Tensor | None = None,
    steps: int = 50,
    guidance: float = 3.0,
    eta: float = 0.0,
    generators: Sequence[torch.Generator] | None = None,
    window: int | None = None,
    overlap: int | None = None,
    strength: float = 1.0,
    progress: bool = False,
    replicas: Sequence[Denoiser] = (),
) -> Tensor:
    """Clean latents (N, 4, H, W), scaled as the VAE's, from starting noise (N, 4, H, W).

    `views` consecutive items are of one portrait, `bank` as `portrait_bank` makes it for those B portraits,
    and `condition` their images (N, 3, S, S) for F_cam, in [-1, 1] or as uint8. The unconditional pass of
    guidance sees neither of the two (paper: guidance 3, 100 steps; released script: 50 steps, eta 0.5); it
    is left out where it would weigh nothing or be the same.

    The networks see `window` views of each portrait at a time (None: all), see `windows`; at every step the
    windows' predictions are blended. `replicas` are copies of `denoiser` on other devices, which share the
    windows. At a `strength` below 1 `noise` is latents noised to the first of `timesteps_of` already, in the
    scheduler's own way, and only those are sampled. `generators`, one for each item, draw what schedulers
    add on the way (DDIM: with `eta` above 0): the same noise and generators give the same latents. Raises
    InputError on shapes and settings that do not fit.
    """
    scheduler = scheduler_for(schedule, steps)
    timesteps = timesteps_of(scheduler, strength)
    options = _step_options(scheduler, eta, generators, len(noise))
    if views < 1 or len(noise) % views:
        raise InputError(f"{len(noise)} latents do not make portraits of {views} views")
    if condition is not None and len(condition) != len(noise):
        raise InputError(
            f"{len(condition)} condition images for {len(noise)} views: there is one for each view"
        )
    plan = windows(views, views if window is None else window, overlap)
    latents = noise.float() * (scheduler.init_noise_sigma if strength == 1 else 1.0)
    with lanes(1 + len(replicas)) as each:
        predict = Prediction((denoiser, *replicas), bank, condition, guidance, views, plan, each)
        for timestep in tqdm(timesteps, desc="sampling", unit="step", disable=not progress):
            epsilon = predict(scheduler.scale_model_input(latents, timestep), timestep.item())
            latents = scheduler.step(epsilon, timestep, latents, **options).prev_sample
    return latents


def _step_options(
    scheduler: SchedulerMixin, eta: float, generators: Sequence[torch.Generator] | None, items: int
) -> dict[str, Any]:
    takes, name = inspect.signature(scheduler.step).parameters, type(scheduler).__name__
    if eta > 0 and "eta" not in takes:
        raise InputError(f"eta={eta}: {name} takes none; DDIMScheduler does")
    draws = eta > 0 if "eta" in takes else "generator" in takes
    if draws and generators is None:
        raise InputError(f"{name} draws noise at each step: give generators, or DDIM with eta=0")
    if draws and len(generators) != items:
        raise InputError(f"{len(generators)} generators for {items} latents: there is one for each")
    options = {"eta": eta} if "eta" in takes else {}
    return options | ({"generator": list(generators)} if draws else {})
