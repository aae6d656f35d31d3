"""Guided DDIM sampling (4, A.2) of portraits' views.

Shape letters: B portraits, V views of a portrait, W views of a window, N = B*V, H W latent size, S image
side.
"""

from collections.abc import Callable, Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import AppearanceReference, Bank
from lightning_modules.sampling.devices import device_map
from lightning_modules.sampling.schedulers import sampled_timesteps, scheduler_for, step_options
from lightning_modules.sampling.windows import Window, blend, windows
from portraits.pixels import levels_to_pixels

BankAt = Callable[[float], Bank]
"""The reference bank at a timestep."""
OnStepEnd = Callable[[int, Tensor, Tensor, Tensor | None], Tensor]
"""The number of a step, its timestep, the latents after it and the clean latents that it predicts (None
where the scheduler does not predict them), to the latents to go on with."""


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
    on_step_end: OnStepEnd | None = None,
) -> Tensor:
    """Sample clean latents (N, 4, H, W) in the VAE's scale from starting noise (N, 4, H, W).

    The paper uses 100 steps and guidance 3; the released script 50 steps and eta 0.5.

    Args:
        denoiser: F with its attached networks.
        schedule: the noise schedule, or another diffusers scheduler; see `scheduler_for`.
        noise: starting noise; at a `strength` below 1, latents noised to the first of the
            `sampled_timesteps`.
        views: V; consecutive items of `noise` are views of one portrait.
        bank: the bank of the B portraits, from `portrait_bank`.
        condition: images (N, 3, S, S) for F_cam, in [-1, 1] or uint8.
        steps: denoising steps.
        guidance: weight of classifier-free guidance; 1 for none.
        eta: DDIM's share of fresh noise at each step, 0 to 1.
        generators: N generators for the noise that schedulers draw at each step (DDIM: with `eta` above 0).
        window, overlap: number of a portrait's views that V attends over at a time (None: all), and number of
            views shared by neighbouring windows; see `windows`.
        strength: share of the steps that are sampled.
        progress: show a progress bar.
        replicas: copies of `denoiser` on further devices, over which the windows are distributed.
        on_step_end: called after each step with its number, the timestep, the latents (N, 4, H, W) and the
            predicted clean latents; sampling goes on with the latents that it returns.

    Raises InputError if shapes and settings do not fit.
    """
    scheduler = scheduler_for(schedule, steps)
    timesteps = sampled_timesteps(scheduler, strength)
    options = step_options(scheduler, eta, generators, len(noise))
    _check_batch(len(noise), views, condition)
    path = windows(views, views if window is None else window, overlap)
    networks = (denoiser, *replicas)
    bank_at: BankAt | None = bank if callable(bank) else None
    fixed_banks = [] if callable(bank) else copy_bank(bank, networks)
    hint = embed_window(denoiser, condition, views, path[0]) if len(path) == 1 else None

    latents = noise.float() * (scheduler.init_noise_sigma if strength == 1 else 1.0)
    with device_map(len(networks)) as map_windows:

        def predict(noisy: Tensor, timestep: float) -> Tensor:
            """Predict ε (B, V, 4, H, W) in latents (B, V, 4, H, W), window by window."""
            banks = fixed_banks if bank_at is None else copy_bank(bank_at(timestep), networks)

            def predict_window(window: Window, device: int) -> Tensor:
                network = networks[device]
                seen = embed_window(network, condition, views, window) if hint is None else hint
                return guided_noise(network, noisy[:, window.views], timestep, banks[device], seen, guidance)

            return blend(map_windows(predict_window, path), path, like=noisy)

        for step, timestep in enumerate(tqdm(timesteps, desc="sampling", unit="step", disable=not progress)):
            noisy = scheduler.scale_model_input(latents, timestep).unflatten(0, (-1, views))
            epsilon = predict(noisy, timestep.item()).flatten(0, 1)
            result = scheduler.step(epsilon, timestep, latents, **options)
            latents = result.prev_sample
            if on_step_end is not None:
                predicted = getattr(result, "pred_original_sample", None)
                latents = on_step_end(step, timestep, latents, predicted)
    return latents


@torch.no_grad()  # gradients are disabled per thread, and this may run in other threads than `sample`
def guided_noise(
    denoiser: Denoiser,
    latents: Tensor,
    timestep: float,
    bank: Bank | None,
    hint: Tensor | None,
    guidance: float,
) -> Tensor:
    """The noise ε (B, W, 4, H, W), float32, predicted with classifier-free guidance in latents of the same
    shape.

    The unconditional pass uses neither `bank` nor `hint`; it is skipped if `guidance` is 1 or both are None.
    Latents are moved to the network's device and dtype.
    """
    views = latents.shape[1]
    items = latents.flatten(0, 1).to(denoiser.empty_prompt.device, denoiser.unet.dtype)
    timesteps = torch.full((len(items),), timestep, device=items.device)
    epsilon = denoiser(items, timesteps, bank, hint=hint, views=views).float()
    if guidance != 1 and (bank is not None or hint is not None):
        unconditional = denoiser(items, timesteps, views=views).float()
        epsilon = unconditional + guidance * (epsilon - unconditional)
    return epsilon.unflatten(0, (-1, views))


@torch.no_grad()
def embed_window(denoiser: Denoiser, condition: Tensor | None, views: int, window: Window) -> Tensor | None:
    """F_cam's embedding of one window of images (N, 3, S, S); None if there are no images.

    If there is one window, its embedding is computed once for all steps; for longer paths it is recomputed at
    each step, so that memory does not grow with the length.
    """
    if condition is None:
        return None
    images = condition.unflatten(0, (-1, views))[:, window.views].flatten(0, 1)
    images = images.to(denoiser.empty_prompt.device)
    if images.dtype == torch.uint8:
        images = levels_to_pixels(images)
    return denoiser.embed_condition(images.to(denoiser.unet.dtype))


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


def copy_bank(bank: Bank | None, networks: Sequence[Denoiser]) -> list[Bank | None]:
    """Copies of the bank on the devices of the networks."""
    return [None if bank is None else bank.to(network.empty_prompt.device) for network in networks]


def _check_batch(items: int, views: int, condition: Tensor | None) -> None:
    if views < 1 or items % views:
        raise InputError(f"{items} latents are not a multiple of {views} views")
    if condition is not None and len(condition) != items:
        raise InputError(f"{len(condition)} condition images for {items} views: give one for each view")
