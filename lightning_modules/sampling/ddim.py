"""Sampling with classifier-free guidance: DDIM as the paper samples (4, A.2) and the released sampler does,
or any other diffusers scheduler.

Shape letters: B portraits, V views of a portrait, N = B*V, H W latent size, S image side.
"""

import inspect
from collections.abc import Callable

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from tqdm import tqdm

from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import AppearanceReference, Bank
from lightning_modules.sampling.windows import Window, windows
from shards.errors import InputError

BankAt = Callable[[int], Bank]
"""The bank to read at a timestep."""
StepNoise = Callable[[int], Tensor]
"""The noise (N, 4, H, W) that DDIM adds after a timestep, where `eta` is above 0."""


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
    it is configured. Raises InputError on a number of steps it does not take."""
    if isinstance(schedule, DDPMScheduler):
        return ddim(schedule, steps)
    scheduler = type(schedule).from_config(schedule.config)
    if not 0 < steps <= schedule.config.num_train_timesteps:
        raise InputError(f"{steps} sampling steps: take 1 to {schedule.config.num_train_timesteps}")
    scheduler.set_timesteps(steps)
    return scheduler


def timesteps_of(scheduler: SchedulerMixin, strength: float) -> Tensor:
    """The timesteps that are sampled: all, or at a `strength` below 1 that share of them, the last ones.

    Raises InputError where that is none, and for schedulers in whose space a half-noised start is scaled
    otherwise.
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength {strength:g}: give more than 0, and at most 1")
    if strength < 1 and scheduler.init_noise_sigma != 1:
        raise InputError(f"strength {strength:g}: {type(scheduler).__name__} starts at full noise; DDIM can")
    return scheduler.timesteps[-max(1, round(strength * len(scheduler.timesteps))) :]


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
    schedule: SchedulerMixin,
    noise: Tensor,
    *,
    views: int = 1,
    bank: Bank | BankAt | None = None,
    condition: Tensor | None = None,
    steps: int = 50,
    guidance: float = 3.0,
    eta: float = 0.0,
    step_noise: StepNoise | None = None,
    window: int | None = None,
    overlap: int = 0,
    strength: float = 1.0,
    progress: bool = False,
) -> Tensor:
    """Clean latents (N, 4, H, W), scaled as the VAE's, from starting noise (N, 4, H, W).

    `views` consecutive items are of one portrait, `bank` as `portrait_bank` makes it for those B portraits,
    and `condition` their images (N, 3, S, S) in [-1, 1] for F_cam. The unconditional pass of guidance sees
    neither of the two (paper: guidance 3, 100 steps; released script: 50 steps, eta 0.5); it is left out
    where it would weigh nothing or be the same.

    The networks see `window` views of each portrait at a time (None: all), see `windows`; at every step the
    windows' predictions are blended. At a `strength` below 1 `noise` is noised to the first of `timesteps_of`
    instead, and only those are sampled. The same noise, and with `eta` above 0 the same `step_noise`, give
    the same latents. Raises InputError on shapes and settings that do not fit.
    """
    if eta > 0 and step_noise is None:
        raise InputError(f"eta={eta} draws noise at each step: give step_noise, or eta=0")
    scheduler = scheduler_for(schedule, steps)
    extra = _step_options(scheduler, eta)
    plan = windows(views, views if window is None else window, overlap)
    predict = _Prediction(denoiser, bank, condition, guidance, views, plan)
    latents = noise.float() * scheduler.init_noise_sigma
    timesteps = timesteps_of(scheduler, strength)
    for timestep in tqdm(timesteps, desc="sampling", unit="step", disable=not progress):
        epsilon = predict(scheduler.scale_model_input(latents, timestep), int(timestep))
        if eta > 0:
            extra["variance_noise"] = step_noise(int(timestep)).to(latents)
        latents = scheduler.step(epsilon, timestep, latents, **extra).prev_sample
    return latents


def _step_options(scheduler: SchedulerMixin, eta: float) -> dict[str, float | Tensor]:
    takes = inspect.signature(scheduler.step).parameters
    if eta > 0 and not {"eta", "variance_noise"} <= takes.keys():
        raise InputError(f"eta={eta}: {type(scheduler).__name__} takes none; DDIMScheduler does")
    return {"eta": eta} if "eta" in takes else {}


class _Prediction:
    """ε of all views (N, 4, H, W) at a timestep: guided, window by window."""

    def __init__(
        self,
        denoiser: Denoiser,
        bank: Bank | BankAt | None,
        condition: Tensor | None,
        guidance: float,
        views: int,
        plan: list[Window],
    ) -> None:
        self.denoiser, self.bank, self.guidance, self.views, self.plan = denoiser, bank, guidance, views, plan
        self.condition = condition
        self.guided = guidance != 1 and (bank is not None or condition is not None)
        # one window's hint serves all steps; a longer path's would take memory by its length
        self.hint = self._embed(condition) if len(plan) == 1 else None

    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        bank = self.bank(timestep) if callable(self.bank) else self.bank
        rows = latents.unflatten(0, (-1, self.views))  # (B, V, 4, H, W)
        blended = torch.zeros_like(rows)
        for window in self.plan:
            epsilon = self._guided(rows[:, window.views].flatten(0, 1), timestep, bank, window)
            weights = window.weights.to(rows).view(-1, 1, 1, 1)
            blended[:, window.views] += weights * epsilon.unflatten(0, (len(rows), -1))
        return blended.flatten(0, 1)

    def _guided(self, latents: Tensor, timestep: int, bank: Bank | None, window: Window) -> Tensor:
        hint = self._hint(window)
        views = window.stop - window.start
        timesteps = torch.full((len(latents),), timestep, device=latents.device)
        inputs = latents.to(self.denoiser.unet.dtype), timesteps
        epsilon = self.denoiser(*inputs, bank, hint=hint, views=views).float()
        if not self.guided:
            return epsilon
        unconditional = self.denoiser(*inputs, views=views).float()
        return unconditional + self.guidance * (epsilon - unconditional)

    def _hint(self, window: Window) -> Tensor | None:
        if self.condition is None or self.hint is not None:
            return self.hint
        rows = self.condition.unflatten(0, (-1, self.views))
        return self._embed(rows[:, window.views].flatten(0, 1))

    def _embed(self, condition: Tensor | None) -> Tensor | None:
        if condition is None:
            return None
        place = self.denoiser.empty_prompt
        return self.denoiser.embed_condition(condition.to(place.device, self.denoiser.unet.dtype))
