"""Pivotal tuning inversion (Roich et al. 2022) of EG3D and PanoHead, as in A.4: optimise the style w for a
portrait, then the generator's weights at that style.

Shape letters: N = 1 person, W styles, Z size of a style, S image side.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from core.errors import InputError
from core.schema import STRICT
from generators.gan.cameras import own_camera
from generators.gan.generator import Generator, Rendering
from generators.gan.layers import StyledConvolution
from metrics.perceptual_loss import PerceptualLoss, PerceptualWeights

RAMP_UP, RAMP_DOWN = 0.05, 0.25  # shares of the steps in which the learning rate of w rises and falls
W_NOISE = 0.05  # noise on each channel of w, as a share of w's root mean square distance from its mean
W_NOISE_STEPS = 0.75  # share of the steps with this noise
SAMPLES = 1000  # latents from which the mean and standard deviation of w are computed
PERCEPTUAL_SIDE = 256  # largest image side for the perceptual loss
SMALLEST_NOISE = 8  # side of the coarsest level of the noise regularisation
# Rays per checkpointed chunk: rendering at 128² needs 1.0 GiB instead of 2.8, and 1.4 times the time.
CHUNK = 1024


@dataclass(frozen=True)
class Tuning:
    """Steps, learning rates and loss weights of an inversion. A.4: 500 steps for w, 250 for the generator,
    with LPIPS and L2.

    Args:
        style_steps: iterations for the style w
        tune_steps: iterations for the generator's weights
        style_rate: Adam's learning rate for w
        tune_rate: Adam's learning rate for the generator
        perceptual: network of the perceptual loss
        perceptual_weight: weight of the perceptual loss; 0 needs no network
        l2: weight of the mean squared error
        noise_weight: weight of the noise regularisation
    """

    __pydantic_config__: ClassVar = STRICT

    style_steps: int = 500
    tune_steps: int = 250
    style_rate: float = 0.01
    tune_rate: float = 3e-4
    perceptual: PerceptualWeights = "efficientnet-lite0"
    perceptual_weight: float = 1.0
    l2: float = 1.0
    noise_weight: float = 1e5

    def __post_init__(self) -> None:
        if min(self.style_steps, self.tune_steps) < 0 or min(self.style_rate, self.tune_rate) <= 0:
            raise InputError("--tuning: steps are 0 or more, and rates are positive")


@dataclass(frozen=True)
class Inverted:
    """An inverted portrait: the tuned `generator`, its styles (1, W, Z), and the loss after each stage:
    start, style, tuned."""

    generator: Generator
    styles: Tensor
    distances: dict[str, float] = field(default_factory=dict)


class Inversion:
    """Inverts portraits one at a time; generator and perceptual network are loaded once."""

    def __init__(self, generator: Generator, tuning: Tuning) -> None:
        self.generator, self.tuning = generator, tuning
        device = generator.backbone.mapping.w_avg.device
        self.perceptual = PerceptualLoss(tuning.perceptual).to(device) if tuning.perceptual_weight else None

    def fit(self, portrait: Tensor, camera: Tensor, name: str = "portrait", quiet: bool = False) -> Inverted:
        """Invert a portrait (3, S, S) in [-1, 1] at a label (25,) in the generator's world. The result is
        deterministic; `self.generator` is not changed."""
        generator = copy.deepcopy(self.generator)
        target, label = portrait.unsqueeze(0), camera.view(1, 1, -1)
        average, spread = self.style_statistics()
        distances = {"start": self._distance(generator, average, target, label)}
        with tqdm(
            total=self.tuning.style_steps + self.tuning.tune_steps, desc=name, unit="step", disable=quiet
        ) as bar:
            style = self._fit_style(generator, average, spread, target, label, bar)
            distances["style"] = self._distance(generator, style, target, label)
            self._tune(generator, style, target, label, bar)
        distances["tuned"] = self._distance(generator, style, target, label)
        return Inverted(generator, self._styles(style), distances)

    @torch.no_grad()
    def style_statistics(self) -> tuple[Tensor, float]:
        """The mean style (1, 1, Z) of sampled latents, and the root mean square distance from it."""
        mapping, settings = self.generator.backbone.mapping, self.generator.settings
        draw = torch.Generator().manual_seed(0)
        z = torch.randn(SAMPLES, self.generator.architecture.latent, generator=draw).to(mapping.w_avg)
        frontal = torch.from_numpy(own_camera(settings)).to(mapping.w_avg)
        ws = self.generator.styles(z, frontal.expand(SAMPLES, -1))[:, :1]
        average = ws.mean(0, keepdim=True)
        return average, float((ws - average).square().sum(-1).mean().sqrt())

    def loss(self, image: Tensor, target: Tensor) -> Tensor:
        """The loss between images (1, 3, S, S): L2 and perceptual (A.4)."""
        total = self.tuning.l2 * F.mse_loss(image, target)
        if self.perceptual is None:
            return total
        pair = (image, target)
        if target.shape[-1] > PERCEPTUAL_SIDE:
            pair = tuple(F.interpolate(x, PERCEPTUAL_SIDE, mode="area") for x in pair)  # type: ignore[assignment]
        return total + self.tuning.perceptual_weight * self.perceptual(*pair)

    def _fit_style(
        self, generator: Generator, start: Tensor, spread: float, target: Tensor, label: Tensor, bar: tqdm
    ) -> Tensor:
        """The optimised style w (1, 1, Z); the generator's noise is optimised in place."""
        style = start.clone().requires_grad_(True)
        noises = noise_patterns(generator)
        for noise in noises:
            noise.requires_grad_(True)
        optimizer = torch.optim.Adam([style, *noises], lr=self.tuning.style_rate, betas=(0.9, 0.999))
        draw = torch.Generator().manual_seed(0)
        for step in range(self.tuning.style_steps):
            done = step / self.tuning.style_steps
            optimizer.param_groups[0]["lr"] = self.tuning.style_rate * _ramp(done)
            scale = spread * W_NOISE * max(0.0, 1 - done / W_NOISE_STEPS) ** 2
            noisy = style + scale * torch.randn(style.shape, generator=draw).to(style)
            distance = self.loss(_view(generator, self._styles(noisy), label), target)
            loss = distance + self.tuning.noise_weight * noise_structure(noises)
            self._step(optimizer, loss, bar, distance)
            _normalise(noises)
        for noise in noises:
            noise.requires_grad_(False)
        return style.detach()

    def _tune(self, generator: Generator, style: Tensor, target: Tensor, label: Tensor, bar: tqdm) -> None:
        """Optimise the generator's weights, except those of the mapping network, in place."""
        parameters = [x for name, x in generator.named_parameters() if "mapping" not in name]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(parameters, lr=self.tuning.tune_rate)
        for _ in range(self.tuning.tune_steps):
            distance = self.loss(_view(generator, self._styles(style), label), target)
            self._step(optimizer, distance, bar, distance)
        generator.requires_grad_(False)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor, bar: tqdm, shown: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        bar.update(1)
        bar.set_postfix(distance=f"{shown.item():.4f}", refresh=False)

    @torch.no_grad()
    def _distance(self, generator: Generator, style: Tensor, target: Tensor, label: Tensor) -> float:
        return float(self.loss(_view(generator, self._styles(style), label), target))

    def _styles(self, style: Tensor) -> Tensor:
        return style.expand(-1, self.generator.backbone.synthesis.styles, -1)


def noise_patterns(generator: nn.Module) -> list[Tensor]:
    """The constant noise (H, W) of the layers of backbone and background network; super-resolution has
    none."""
    return [
        module.noise_const
        for name, module in generator.named_modules()
        if isinstance(module, StyledConvolution) and not name.startswith("superresolution")
    ]


def noise_structure(noises: Iterable[Tensor]) -> Tensor:
    """The noise regularisation of Karras et al. 2020, appendix D: autocorrelation of noise (H, W) between
    neighbours over all scales, 0 for white noise."""
    total: Tensor | float = 0.0
    for noise in noises:
        pyramid = noise[None, None]
        while True:
            for axis in (2, 3):
                total = total + (pyramid * pyramid.roll(1, axis)).mean().square()
            if pyramid.shape[-1] <= SMALLEST_NOISE:
                break
            pyramid = F.avg_pool2d(pyramid, 2)
    return torch.as_tensor(total)


def _view(generator: Generator, styles: Tensor, label: Tensor) -> Tensor:
    """The image (1, 3, S, S) of styles (1, W, Z) at a label (1, 1, 25)."""
    sampling = replace(generator.sampling, chunk=CHUNK, recompute=True)
    how = Rendering(sampling=sampling, follow=True)
    return next(generator.each_view(generator.identity(styles), label, how)).image[:, 0]


def _ramp(done: float) -> float:
    """The learning rate's factor after a share `done` of the steps: linear warm-up and cosine decay."""
    down = min(1.0, (1 - done) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, max(done / RAMP_UP, 0.05))


@torch.no_grad()
def _normalise(noises: Iterable[Tensor]) -> None:
    for noise in noises:
        noise -= noise.mean()
        noise *= noise.square().mean().rsqrt()
