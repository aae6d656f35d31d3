"""S in the pipeline: proxies, and the 3D-aware noise made of them (3.4).

Shape letters: B portraits, R references of a portrait, K views of a path, S image side, H W latent size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from core.errors import InputError
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.starting_noise import diffused, partly_noised, view_noise


class PriorMixin:
    """Starting noise for a `DiffusionPipeline` with a noise prior."""

    noise_prior: Any  # S, or None
    scheduler: SchedulerMixin
    encode: Callable[..., Tensor]
    _loaded: Callable[..., AbstractContextManager[None]]

    @property
    def _execution_device(self) -> torch.device:
        """The device that networks run on."""
        raise NotImplementedError

    def proxies(self, references: Tensor, cameras: Tensor, chunk: int = 8) -> Tensor:
        """S's proxies Ĩ (B, K, 3, S, S) in [-1, 1], on the CPU, from references (B, R, 3, S, S) at EG3D
        labels (B, K, 25), rendered `chunk` views at a time."""
        rendered = [images.cpu() for images in self._render_proxies(references, cameras, chunk)]
        return torch.cat(rendered).unflatten(0, cameras.shape[:2])

    @torch.no_grad()
    def _render_proxies(self, references: Tensor, cameras: Tensor, chunk: int) -> Iterator[Tensor]:
        """Chunks of proxies (n, 3, S, S), n at most `chunk`, person by person."""
        prior, device = self.noise_prior, self._execution_device
        with self._loaded(prior):
            for person, labels in zip(references.split(1), cameras.split(1), strict=True):
                canonical = prior.encode(person.to(device, prior.dtype))
                for part in labels.split(chunk, 1):
                    yield prior.render(canonical, part.to(device))[0]

    def _resolved(self, sampling: Sampling, cameras: Tensor | None, proxies: Tensor | None) -> Sampling:
        """The settings with the starting noise chosen, and strength 1 if it is random. Raises InputError if
        3D-aware noise is requested but not possible."""
        possible = proxies is not None or (self.noise_prior is not None and cameras is not None)
        if sampling.noise == "3d-aware" and not possible:
            missing = "cameras" if self.noise_prior is not None else "a model with noise_prior/ (S)"
            raise InputError(f"3d-aware noise needs {missing}, or proxies; or choose random noise")
        noise = sampling.noise or ("3d-aware" if possible else "random")
        return replace(sampling, noise=noise, strength=sampling.strength if noise == "3d-aware" else 1.0)

    def _start(
        self,
        like: Tensor,
        references: Tensor,
        cameras: Tensor | None,
        proxies: Tensor | None,
        seeds: Sequence[int | str],
        views: int,
        sampling: Sampling,
    ) -> Tensor:
        """Starting noise (B, K, 4, H, W) for latents `like` (…, 4, H, W)."""
        noise = view_noise(seeds, range(views), like)
        if sampling.noise != "3d-aware":
            return noise
        if proxies is None:
            assert cameras is not None  # else noise is random
            rendered = self._render_proxies(references, cameras, sampling.chunk)
            start = torch.cat([self.encode(x, sampling.chunk) for x in rendered])
            start = start.unflatten(0, noise.shape[:2])
        else:
            start = self.encode(proxies, sampling.chunk)
        if sampling.strength == 1:
            return diffused(start, noise, self.scheduler)
        return partly_noised(start, noise, self.scheduler, sampling)
