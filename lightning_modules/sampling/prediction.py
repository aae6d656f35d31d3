"""F's prediction of the noise in a path of views: with guidance, window by window, on one or more devices.

Shape letters: B portraits, V views of a portrait, W views of a window, N = B*V, H W latent size, S image
side.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.errors import InputError
from lightning_modules.networks.denoiser import DeepFeatures, Denoiser
from lightning_modules.networks.reference import Bank
from lightning_modules.sampling.devices import device_map
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.windows import Window, blend, windows
from portraits.pixels import levels_to_pixels

BankAt = Callable[[float], Bank]
"""The reference bank at a timestep."""
Predict = Callable[[Tensor, int, float], Tensor]
"""Predicts the noise ε (N, 4, H, W) in noisy latents of that shape, given the step's number and timestep."""
Deep = defaultdict[str, DeepFeatures]
"""Cached features of F's deep layers, by the name of the pass that computed them."""


@dataclass(frozen=True)
class Inputs:
    """What views are conditioned on; without any of it there is no guidance.

    Args:
        bank: the bank of the B portraits, from `portrait_bank`.
        condition: images (N, 3, S, S) for F_cam, in [-1, 1] or uint8.
        prompt: the embedding (1, T, D) of a prompt; None for the empty one.
    """

    bank: Bank | BankAt | None = None
    condition: Tensor | None = None
    prompt: Tensor | None = None


class WindowInputs(NamedTuple):
    """What the conditional pass of one window is conditioned on; `hint` is F_cam's embedded condition."""

    bank: Bank | None = None
    hint: Tensor | None = None
    prompt: Tensor | None = None


@contextmanager
def view_predictor(
    networks: Sequence[Denoiser], inputs: Inputs, settings: Sampling, items: int, views: int
) -> Iterator[Predict]:
    """A function that predicts the noise in latents (N = `items`, 4, H, W), of which `views` consecutive ones
    are a path, over the windows of the settings and the devices of the networks.

    Raises InputError if shapes and settings do not fit.
    """
    _check_batch(items, views, inputs.condition)
    path = windows(views, settings.window, settings.overlap)
    with device_map(len(networks)) as map_windows:
        predictor = _Predictor(networks, inputs, settings, views, path)

        def predict(noisy: Tensor, step: int, timestep: float) -> Tensor:
            if step % settings.deep_every == 0:
                predictor.renew(timestep)
            split = noisy.unflatten(0, (-1, views))
            parts = map_windows(lambda number, device: predictor(split, number, device, timestep),
                                range(len(path)))  # fmt: skip
            return blend(parts, path, like=split).flatten(0, 1)

        yield predict


class _Predictor:
    """Predicts the noise in one window of a path on one device."""

    def __init__(
        self,
        networks: Sequence[Denoiser],
        inputs: Inputs,
        settings: Sampling,
        views: int,
        path: Sequence[Window],
    ) -> None:
        self.networks, self.inputs, self.settings = networks, inputs, settings
        self.views, self.path = views, path
        self.banks = [] if callable(inputs.bank) else copy_bank(inputs.bank, networks)
        self.deep: list[Deep] = []
        # Of one window, the hint is embedded once for all steps; for longer paths at each step, so that
        # memory does not grow with the length.
        self.hint = self._embed(networks[0], path[0]) if len(path) == 1 else None

    def renew(self, timestep: float) -> None:
        """Forget what earlier steps have kept, and compute the bank at a timestep where it depends on it."""
        self.deep = [defaultdict(DeepFeatures) for _ in self.path]
        if callable(self.inputs.bank):
            self.banks = copy_bank(self.inputs.bank(timestep), self.networks)

    @torch.no_grad()  # gradients are disabled per thread, and this may run in other threads than `sample`
    def __call__(self, noisy: Tensor, number: int, device: int, timestep: float) -> Tensor:
        """Predict ε (B, W, 4, H, W) in one window of latents (B, V, 4, H, W)."""
        network, window = self.networks[device], self.path[number]
        hint = self._embed(network, window) if self.hint is None else self.hint
        prompt = self.inputs.prompt
        prompt = None if prompt is None else prompt.to(network.empty_prompt)
        given = WindowInputs(self.banks[device], hint, prompt)
        deep = self.deep[number] if self.settings.deep_every > 1 else None
        return guided_noise(network, noisy[:, window.views], timestep, given, self.settings, deep)

    def _embed(self, denoiser: Denoiser, window: Window) -> Tensor | None:
        """F_cam's embedding of a window of the condition images; None if there are none."""
        if self.inputs.condition is None:
            return None
        images = self.inputs.condition.unflatten(0, (-1, self.views))[:, window.views].flatten(0, 1)
        images = images.to(denoiser.empty_prompt.device)
        if images.dtype == torch.uint8:
            images = levels_to_pixels(images)
        return denoiser.embed_condition(images.to(denoiser.unet.dtype))


def guided_noise(
    denoiser: Denoiser,
    latents: Tensor,
    timestep: float,
    given: WindowInputs,
    settings: Sampling,
    deep: Deep | None = None,
) -> Tensor:
    """The noise ε (B, W, 4, H, W), float32, predicted with classifier-free guidance in latents of the same
    shape.

    The unconditional pass uses nothing of `given`; it is left out where there is no guidance, or nothing
    given. `deep` keeps the features of F's deep layers, or holds those of an earlier step. Latents are moved
    to the network's device and dtype.
    """
    views = latents.shape[1]
    items = latents.flatten(0, 1).to(denoiser.empty_prompt.device, denoiser.unet.dtype)
    timesteps = torch.full((len(items),), timestep, device=items.device)

    def predict(name: str, inputs: WindowInputs, both: bool = False) -> Tensor:
        options = {"views": views, "both": both, "deep": None if deep is None else deep[name]}
        return denoiser(
            items, timesteps, inputs.bank, hint=inputs.hint, prompt=inputs.prompt, **options
        ).float()

    if not settings.guides(timestep) or all(x is None for x in given):
        return predict("conditional", given).unflatten(0, (-1, views))
    if settings.one_batch:
        conditional, unconditional = predict("both", given, both=True).chunk(2)
    else:
        conditional = predict("conditional", given)
        unconditional = predict("unconditional", WindowInputs())
    epsilon = unconditional + settings.guidance * (conditional - unconditional)
    return epsilon.unflatten(0, (-1, views))


def copy_bank(bank: Bank | None, networks: Sequence[Denoiser]) -> list[Bank | None]:
    """Copies of the bank on the devices of the networks."""
    return [None if bank is None else bank.to(network.empty_prompt.device) for network in networks]


def _check_batch(items: int, views: int, condition: Tensor | None) -> None:
    if views < 1 or items % views:
        raise InputError(f"{items} latents are not a multiple of {views} views")
    if condition is not None and len(condition) != items:
        raise InputError(f"{len(condition)} condition images for {items} views: give one for each view")
