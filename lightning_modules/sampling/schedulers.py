"""diffusers' schedulers for sampling: DDIM, as in the paper (4, A.2), or another solver."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from core.errors import InputError
from lightning_modules.sampling.settings import Sampling, Spacing

# diffusers' classes, and what they are given besides the model's noise schedule. All are deterministic but
# LCM, which noises its predictions again at every step.
SOLVERS: dict[str, tuple[type[SchedulerMixin], dict[str, Any]]] = {
    "unipc": (UniPCMultistepScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "lcm": (LCMScheduler, {"clip_sample": False}),
}
BETAS = ("beta_start", "beta_end", "beta_schedule", "trained_betas")
REQUIRED_ATTRIBUTES = ("alphas_cumprod", "add_noise", "init_noise_sigma", "scale_model_input")


def ddim_scheduler(schedule: ConfigMixin, steps: int, spacing: Spacing = "leading") -> DDIMScheduler:
    """A DDIM scheduler over the noise schedule of any diffusers scheduler, by default on the released
    timestep grid.

    The grid is `steps` evenly spaced timesteps that start at 1: 50 steps of 1000 are 1, 21, …, 981. Raises
    InputError if `steps` is not in 1 to half the schedule's timesteps.
    """
    trained = schedule.config.num_train_timesteps
    if not 0 < steps <= trained // 2:  # with more steps, the grid does not reach the last timesteps
        raise InputError(f"{steps} sampling steps: give 1 to {trained // 2}")
    scheduler = DDIMScheduler(
        num_train_timesteps=trained,
        **{name: schedule.config[name] for name in BETAS},
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing=spacing,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def scheduler_for(schedule: SchedulerMixin, sampling: Sampling) -> SchedulerMixin:
    """A new scheduler set to the settings' number of steps: their solver's, with the noise schedule of
    `schedule`; or, if they name none, DDIM for a training schedule (DDPM) and otherwise a copy of `schedule`.

    Raises InputError for unsupported numbers of steps, for schedulers that are not based on predictions of ε,
    and for those whose noise cannot be seeded per view.
    """
    steps, solver = sampling.steps, sampling.solver
    if not isinstance(schedule, DDPMScheduler):
        _check_supported(schedule)
    if solver == "ddim" or (solver is None and isinstance(schedule, DDPMScheduler)):
        return ddim_scheduler(schedule, steps, sampling.spacing)
    trained = schedule.config.get("num_train_timesteps", 0)
    if solver is None:
        scheduler = type(schedule).from_config(schedule.config)
    else:
        kind, options = SOLVERS[solver]
        grid = {} if solver == "lcm" else {"timestep_spacing": sampling.spacing, "steps_offset": 1}
        betas = {name: schedule.config[name] for name in BETAS}
        scheduler = kind(num_train_timesteps=trained, **betas, **options, **grid)
    if not 0 < steps <= trained:
        raise InputError(f"{steps} sampling steps: give 1 to {trained}")
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise InputError(f"{steps} sampling steps: {type(scheduler).__name__}: {error}") from error
    return scheduler


def clean_latents(
    scheduler: SchedulerMixin, result: BaseOutput, noisy: Tensor, epsilon: Tensor, timestep: Tensor
) -> Tensor | None:
    """The clean latents that a step predicts, of the shape of its noisy latents and the predicted noise ε.

    Those of the scheduler's `result`; otherwise, if its latents keep their variance, those that Eq. 1 gives;
    otherwise None.
    """
    own: Tensor | None = getattr(result, "pred_original_sample", None)
    if own is not None or scheduler.init_noise_sigma != 1:
        return own
    alpha = scheduler.alphas_cumprod.to(noisy)[timestep.long()]
    return (noisy - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()


def _check_supported(schedule: SchedulerMixin) -> None:
    name = type(schedule).__name__
    complete = all(hasattr(schedule, part) for part in REQUIRED_ATTRIBUTES) and "Inverse" not in name
    parameters = list(inspect.signature(schedule.step).parameters.values())
    further_inputs = [x for x in parameters[3:] if x.default is x.empty]
    if not complete or further_inputs or schedule.config.get("prediction_type") != "epsilon":
        raise InputError(f"{name}: it does not support F's predictions of the noise; DDIM does")
    if hasattr(schedule, "noise_sampler"):
        raise InputError(f"{name}: its noise cannot be seeded for each view; EulerAncestral's can")
    if schedule.config.get("skip_prk_steps") is False:
        raise InputError(f"{name}: its Runge-Kutta steps cannot start midway: set skip_prk_steps")


def sampled_timesteps(scheduler: SchedulerMixin, strength: float) -> Tensor:
    """The timesteps to sample: all, or at a `strength` below 1 the last share `strength` of them.

    Raises InputError unless `strength` is in (0, 1].
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength {strength:g}: give more than 0, and at most 1")
    steps = scheduler.num_inference_steps
    skipped = steps - max(1, round(strength * steps))
    return scheduler.timesteps[skipped * scheduler.order :]


def step_options(
    scheduler: SchedulerMixin, eta: float, generators: Sequence[torch.Generator] | None, items: int
) -> dict[str, Any]:
    """Keyword arguments for `scheduler.step` on a batch of `items`: `eta` and `generator`, if it has them.

    Raises InputError if `eta` is not supported, or if the scheduler draws noise and there is not one
    generator for each item.
    """
    parameters, name = inspect.signature(scheduler.step).parameters, type(scheduler).__name__
    if eta > 0 and "eta" not in parameters:
        raise InputError(f"eta={eta}: {name} has no eta; DDIMScheduler has")
    stochastic = eta > 0 if "eta" in parameters else "generator" in parameters
    if not str(scheduler.config.get("algorithm_type", "sde")).startswith("sde"):  # DPM-Solver's own ODE
        stochastic = False
    options: dict[str, Any] = {"eta": eta} if "eta" in parameters else {}
    if not stochastic:
        return options
    if generators is None:
        raise InputError(f"{name} draws noise at each step: give generators, or DDIM with eta=0")
    if len(generators) != items:
        raise InputError(f"{len(generators)} generators for {items} latents: give one for each")
    return options | {"generator": list(generators)}
