"""Zero-1-to-3 as a system: each view is sampled from the portrait and its camera relative to the portrait's.

Shape letters: K views, B views at a time, S image side.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from baselines.base import Request
from baselines.zero123.cameras import relative_pose
from baselines.zero123.folder import check_folder, load_networks
from baselines.zero123.networks import Networks
from baselines.zero123.preparation import Background, prepared
from baselines.zero123.sampling import Sampler, guided, sample, timesteps_of
from core.errors import InputError
from core.schema import STRICT
from core.seeding import normal, torch_generator
from portraits.pixels import Images, to_images, to_pixels


@dataclass(frozen=True)
class Zero123Settings:
    """Settings of Zero-1-to-3.

    Args:
        sampler: the original demo's grid of timesteps, without the largest, or that of diffusers' pipeline
        steps: steps of the grid; the original uses one fewer
        guidance: weight of the conditions
        eta: noise added at each step; by default the sampler's, 1 for the original and 0 for diffusers'
        background: "white" removes the background with the request's mask; "centred" also crops and centres
            the head as in the original demo, and moves the views back to the portrait's frame; "keep" leaves
            the portrait unchanged
        head_size: the unit of the camera's distance, in units of EG3D labels
        batch: views sampled at a time
    """

    sampler: Sampler = "original"
    steps: int = 50
    guidance: float = 3.0
    eta: float | None = None
    background: Background = "white"
    head_size: float = 0.65
    batch: int = 4

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        timesteps_of(self.sampler, self.steps)
        if self.head_size <= 0 or self.batch < 1 or not 0 <= (self.eta or 0) <= 1:
            raise InputError(f"{self}: head_size and batch are above 0, eta is from 0 to 1")


class Zero123:
    """Zero-1-to-3 (Liu et al., ICCV 2023), which uses the cameras' angles, but not their roll or field of
    view."""

    Settings: ClassVar[type] = Zero123Settings
    name = "Zero-1-to-3"
    licence = (
        "code MIT; the original weights state no licence, converted copies are marked MIT; descended from "
        "Stable Diffusion image variations (OpenRAIL-M)"
    )

    def __init__(self, networks: Networks, settings: Zero123Settings, device: str = "cpu") -> None:
        """`networks` are on `device`."""
        self.networks, self.settings, self.device = networks, settings, device
        self.native_size = networks.image_size

    @classmethod
    def check(cls, folder: Path) -> None:
        """See `Baseline.check`."""
        check_folder(folder)

    @classmethod
    def open(cls, folder: Path, device: str = "cpu", settings: Zero123Settings | None = None) -> Self:
        """See `Baseline.open`. The folder is `import_baseline`'s, or one converted for diffusers (kxic's
        layout)."""
        return cls(load_networks(folder).to(device), settings or Zero123Settings(), device)

    @torch.inference_mode()
    def views(self, request: Request) -> Images:
        """See `ViewSynthesizer.views`."""
        square, placement = prepared(request, self.settings.background, self.native_size)
        source = to_pixels(np.array(square))[None].contiguous().to(self.device)
        pose = relative_pose(request.portrait_cameras[0], request.cameras, self.settings.head_size)
        draws = [torch_generator(request.seed, request.name, "zero123", k) for k in range(len(pose))]
        latent, embedding = self.networks.image_latent(source), self.networks.embedding(source)
        images = []
        for start in range(0, len(pose), self.settings.batch):
            few = slice(start, start + self.settings.batch)
            poses = torch.from_numpy(pose[few]).to(self.device)
            latents = self.sampled(latent, self.networks.context(embedding, poses), draws[few])
            images += list(to_images(self.networks.decode(latents)))
        if placement is not None:
            images = [np.asarray(placement.back(Image.fromarray(image))) for image in images]
        return np.stack(images)

    def sampled(self, source: Tensor, context: Tensor, draws: list[torch.Generator]) -> Tensor:
        """Latents (B, 4, H, W) of a source latent (1, 4, H, W) and contexts (B, 1, D), each view's noise from
        its own generator."""
        settings = self.settings

        def noise(_step: int = 0) -> Tensor:
            return torch.cat([normal(source.shape, draw, source) for draw in draws])

        predict = partial(
            _predict, self.networks.unet, source.expand(len(draws), -1, -1, -1), context, settings.guidance
        )
        return sample(predict, noise(), settings.sampler, settings.steps, settings.eta, noise)


def _predict(
    unet: Any, source: Tensor, context: Tensor, guidance: float, latents: Tensor, timestep: int
) -> Tensor:
    def run(joined: Tensor, at: int, contexts: Tensor) -> Tensor:
        return unet(joined, at, encoder_hidden_states=contexts).sample

    return guided(run, latents, timestep, source, context, guidance)
