"""From a portrait and cameras to images: the paper's inference (3.4, A.2) as a diffusers pipeline.

Shape letters: B portraits, R references, K views of a path, S image side, H W latent size.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import diffusers
import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from numpy.typing import ArrayLike
from PIL import Image, ImageOps
from torch import Tensor

from core.errors import InputError
from core.files import whole_folder
from core.model_folders import read_json
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.portrait import (
    PortraitModel,
    ReferenceTimestep,
    load_portrait_model,
    write_portrait_model,
)
from lightning_modules.networks.pretrained import Backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.speed import tune
from lightning_modules.sampling.ddim import portrait_bank, sample
from lightning_modules.sampling.settings import PAPER, Sampling, StartingNoise
from lightning_modules.sampling.starting_noise import diffused, half_noised, step_generators, view_noise
from portraits.cameras import check_labels
from portraits.people import MIN_SIDE
from portraits.pixels import levels_to_pixels, pixels_to_levels, to_images


@dataclass
class Views(BaseOutput):
    """What the pipeline returns: `images`, K views (S, S)."""

    images: list[Image.Image]


class DiffPortrait3DPipeline(DiffusionPipeline):
    """Novel views of a portrait. A folder of `save_pretrained`, `import_released` or training is loaded by
    `from_pretrained`.

    `scheduler` is the noise schedule of training (DDPM), then sampled by DDIM on the released grid, or any
    other diffusers scheduler, then used as it is configured.
    """

    _optional_components = ["view_control", "cross_view", "noise_prior"]  # noqa: RUF012 (diffusers' own name)

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        appearance_reference: AppearanceReference,
        view_control: ControlNetModel | None = None,
        cross_view: CrossView | None = None,
        noise_prior: NoisePrior | None = None,
        reference_timestep: ReferenceTimestep = "current",
        empty_prompt: Tensor | None = None,
    ) -> None:
        if empty_prompt is None:
            raise InputError("empty_prompt: give the text embedding (1, T, D) of the empty prompt")
        super().__init__()
        self.register_modules(
            vae=vae,
            unet=unet,
            scheduler=scheduler,
            appearance_reference=appearance_reference,
            view_control=view_control,
            cross_view=cross_view,
            noise_prior=noise_prior,
        )
        self.register_to_config(reference_timestep=reference_timestep)
        self.empty_prompt = empty_prompt
        self.replicas: tuple[Denoiser, ...] = ()
        self.compiled = False

    # From and to folders

    @classmethod
    def of(cls, model: PortraitModel) -> Self:
        """The pipeline of networks that are loaded already."""
        backbone = model.backbone
        return cls(
            backbone.vae,
            backbone.unet,
            backbone.scheduler,
            model.reference,
            model.control,
            model.cross_view,
            model.noise_prior,
            model.reference_timestep,
            backbone.empty_prompt,
        )

    @classmethod
    def from_pretrained(cls, path: str | Path, dtype: torch.dtype = torch.float32) -> Self:
        """The pipeline in a folder, as `networks.portrait.load_portrait_model` reads it, which says what it
        refuses; with the scheduler it was saved with, where a pipeline saved it."""
        pipeline = cls.of(load_portrait_model(str(path), dtype))
        index = Path(path) / cls.config_name
        if index.is_file() and read_json(index).get("_class_name") == cls.__name__:
            name = read_json(index).get("scheduler", (None, None))[1]
            kind = getattr(diffusers, str(name), None)
            if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
                raise InputError(f"{index}: {name!r} is none of diffusers' schedulers")
            pipeline.scheduler = kind.from_config(read_json(Path(path) / "scheduler/scheduler_config.json"))
        return pipeline

    def save_pretrained(self, save_directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """The folder that `from_pretrained` reads. Raises InputError where it exists."""
        with whole_folder(Path(save_directory)) as folder:
            write_portrait_model(self.model, folder, dtype)
            self.save_config(folder)

    @property
    def model(self) -> PortraitModel:
        """The networks."""
        backbone = Backbone(self.vae, self.unet, self.scheduler, self.empty_prompt)
        return PortraitModel(
            backbone,
            self.appearance_reference,
            self.view_control,
            self.cross_view,
            self.noise_prior,
            self.config.reference_timestep,
        )

    @property
    def denoiser(self) -> Denoiser:
        """F with all that is attached to it."""
        prompt = self.empty_prompt.to(self.device, self.unet.dtype)
        denoiser = Denoiser(self.unet, prompt, self.view_control, self.cross_view)
        return tune(denoiser, compile=self.compiled)

    def tune(self, channels_last: bool = False, compile: bool = False) -> Self:
        """F, F_ref, F_cam and V in channels-last memory, or compiled, in later calls: `networks.speed`."""
        self.compiled = compile
        tune(self.denoiser, channels_last=channels_last)
        tune(self.appearance_reference, channels_last=channels_last, compile=compile)
        return self

    def replicate(self, devices: Sequence[str | torch.device]) -> Self:
        """Copies F, F_cam and V, as they are now, to more devices, where later calls have a share of a longer
        path's windows made. What is made stays the same."""
        copies = (deepcopy(self.denoiser).to(device) for device in devices)
        self.replicas = tuple(tune(copy, compile=self.compiled) for copy in copies)
        return self

    @property
    def image_size(self) -> int:
        """The side S of the images that F was trained on."""
        return self.unet.config.sample_size * self.model.backbone.downsampling

    # One portrait, as people have it

    def __call__(
        self,
        portrait: Image.Image | Sequence[Image.Image],
        cameras: ArrayLike | None = None,
        conditions: Sequence[Image.Image] | None = None,
        proxies: Sequence[Image.Image] | None = None,
        seed: int | str = 0,
        progress: bool = True,
        **sampling: Any,
    ) -> Views:
        """K views of the person on `portrait`, one photo or several (Eq. 5), whose middle square is seen.

        `conditions` are K images of anybody, seen as the person is to be seen; where F_cam is there they are
        needed. `cameras` are EG3D labels (K, 25), for S. `proxies` are K images that take S's place as the
        start of 3D-aware noise. `sampling` are fields of `Sampling`. The same seed gives the same views.
        Raises InputError on what does not fit.
        """
        references = [portrait] if isinstance(portrait, Image.Image) else list(portrait)
        labels = None if cameras is None else torch.from_numpy(check_labels(cameras, "cameras"))[None]
        count = self._count(labels, conditions, proxies)
        images = self.views(
            self._portraits(references),
            None if conditions is None else self._levels(conditions, "conditions"),
            labels,
            None if proxies is None else self._levels(proxies, "proxies"),
            seeds=[seed],
            count=count,
            sampling=Sampling(**sampling),
            progress=progress,
            levels=True,
        )
        return Views(images=[Image.fromarray(view) for view in images[0].movedim(1, -1).contiguous().numpy()])

    def _count(self, labels: Tensor | None, *given: Sequence[Image.Image] | None) -> int:
        sizes = (None if labels is None else labels.shape[1], *(None if x is None else len(x) for x in given))
        names = ("cameras", "conditions", "proxies")
        counts = {name: size for name, size in zip(names, sizes, strict=True) if size is not None}
        if not counts or 0 in counts.values():
            raise InputError("no views are asked for: give cameras, conditions or both")
        if len(set(counts.values())) > 1:
            raise InputError(
                f"{', '.join(f'{n} {name}' for name, n in counts.items())}: there is one for each view"
            )
        return next(iter(counts.values()))

    def _levels(self, images: Sequence[Image.Image], what: str) -> Tensor:
        """(1, N, 3, S, S) uint8 of square images of any size."""
        if odd := next((image.size for image in images if image.width != image.height), None):
            raise InputError(f"{what}: an image of {odd[0]}x{odd[1]} pixels; squares are wanted, cut alike")
        side = self.image_size
        squares = [image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS) for image in images]
        return torch.from_numpy(np.stack([np.asarray(square) for square in squares])).movedim(-1, 1)[None]

    def _portraits(self, images: Sequence[Image.Image]) -> Tensor:
        """(1, R, 3, S, S) of portraits of any size and shape."""
        if not images:
            raise InputError("no portrait was given")
        if small := next((image.size for image in images if min(image.size) < MIN_SIDE), None):
            raise InputError(f"a portrait of {small[0]}x{small[1]} pixels: {MIN_SIDE} a side at least")
        squares = [ImageOps.fit(image, (min(image.size),) * 2) for image in images]
        return levels_to_pixels(self._levels(squares, "portrait"))

    # Batches of portraits, as evaluation has them

    @torch.no_grad()
    def views(
        self,
        references: Tensor,
        conditions: Tensor | None = None,
        cameras: Tensor | None = None,
        proxies: Tensor | None = None,
        *,
        seeds: Sequence[int | str],
        count: int | None = None,
        sampling: Sampling = PAPER,
        progress: bool = False,
        levels: bool = False,
    ) -> Tensor:
        """Views (B, K, 3, S, S) of references (B, R, 3, S, S), images in [-1, 1], or uint8 if `levels`, on
        the CPU.

        `conditions` and `proxies` are (B, K, 3, S, S), in [-1, 1] or uint8, `cameras` EG3D labels (B, K, 25),
        and `count` is K where none of them says it. A portrait's views follow from its seed and settings,
        whatever else is in the batch. Raises InputError on what does not fit.
        """
        views = next((x.shape[1] for x in (conditions, cameras, proxies) if x is not None), count or 1)
        self._check(references, conditions, seeds)
        self._check_views(len(references), views, conditions, cameras, proxies)
        sampling = replace(sampling, noise=self._noise(sampling, cameras, proxies))
        latents = self.encode(references, sampling.chunk)
        clean = sample(
            denoiser := self.denoiser,
            self.scheduler,
            self._start(latents, references, cameras, proxies, seeds, views, sampling).flatten(0, 1),
            views=views,
            bank=portrait_bank(denoiser, self.appearance_reference, latents, self._timestep),
            condition=None if conditions is None else conditions.flatten(0, 1),
            steps=sampling.steps,
            guidance=sampling.guidance,
            eta=sampling.eta,
            generators=step_generators(seeds, range(views)),
            window=sampling.window,
            strength=sampling.strength if sampling.noise == "3d-aware" else 1.0,
            overlap=sampling.overlap,
            progress=progress,
            replicas=self.replicas,
        )
        return self.decode(clean, sampling.chunk, levels).unflatten(0, (len(references), views))

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
        """Where sampling starts (B, K, 4, H, W)."""
        noise = view_noise(seeds, range(views), like)
        if sampling.noise != "3d-aware":
            return noise
        if proxies is None:
            some = self.each_proxy(references, cameras, sampling.chunk)
            start = torch.cat([self.encode(x, sampling.chunk) for x in some]).unflatten(0, noise.shape[:2])
        else:
            start = self.encode(proxies, sampling.chunk)
        if sampling.strength == 1:
            return diffused(start, noise, self.scheduler)
        return half_noised(start, noise, self.scheduler, sampling.steps, sampling.strength)

    @property
    def _timestep(self) -> int | None:
        return 0 if self.config.reference_timestep == "zero" else None

    def _check(self, references: Tensor, conditions: Tensor | None, seeds: Sequence[int | str]) -> None:
        if len(seeds) != len(references):
            raise InputError(f"{len(seeds)} seeds for {len(references)} portraits")
        if self.view_control is not None and conditions is None:
            raise InputError("no conditions: F_cam sees an image for each view; give images or render them")
        if self.view_control is None and conditions is not None:
            raise InputError("conditions were given, but the model has no view_control/ (F_cam) to see them")

    def _check_views(self, people: int, views: int, *given: Tensor | None) -> None:
        for name, tensor in zip(("conditions", "cameras", "proxies"), given, strict=True):
            if tensor is not None and tensor.shape[:2] != (people, views):
                raise InputError(
                    f"{name} {tuple(tensor.shape)}: {people} portraits of {views} views are asked for"
                )

    def _noise(self, sampling: Sampling, cameras: Tensor | None, proxies: Tensor | None) -> StartingNoise:
        able = proxies is not None or (self.noise_prior is not None and cameras is not None)
        if sampling.noise == "3d-aware" and not able:
            lacking = "cameras" if self.noise_prior is not None else "a model with noise_prior/ (S)"
            raise InputError(f"3d-aware noise takes {lacking}, or proxies; or ask for random noise")
        return sampling.noise or ("3d-aware" if able else "random")

    def proxies(self, references: Tensor, cameras: Tensor, chunk: int = 8) -> Tensor:
        """S's Ĩ (B, K, 3, S, S) in [-1, 1], on the CPU, of references (B, R, 3, S, S) at EG3D labels
        (B, K, 25)."""
        some = [proxies.cpu() for proxies in self.each_proxy(references, cameras, chunk)]
        return torch.cat(some).unflatten(0, cameras.shape[:2])

    @torch.no_grad()
    def each_proxy(self, references: Tensor, cameras: Tensor, chunk: int = 8) -> Iterator[Tensor]:
        """`proxies` a few at a time, person by person: each (n, 3, S, S), n at most `chunk`."""
        prior = self.noise_prior
        for person, labels in zip(references.split(1), cameras.split(1), strict=True):
            canonical = prior.encode(person.to(self.device, prior.dtype))
            for some in labels.split(chunk, 1):
                yield prior.render(canonical, some.to(self.device))[0]

    @torch.no_grad()
    def encode(self, images: Tensor, chunk: int = 8) -> Tensor:
        """Images (…, 3, S, S) in [-1, 1], or uint8, to latents (…, 4, H, W) in F's scale: the posterior's
        mean."""
        means = [self._mean(some) for some in images.flatten(0, -4).split(chunk)]
        return torch.cat(means).mul(self.vae.config.scaling_factor).unflatten(0, images.shape[:-3])

    def _mean(self, images: Tensor) -> Tensor:
        images = levels_to_pixels(images) if images.dtype == torch.uint8 else images
        return self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist.mean.float()

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk: int = 8, levels: bool = False) -> Tensor:
        """Latents (N, 4, H, W) to images (N, 3, S, S) in [-1, 1], or uint8 if `levels`, on the CPU."""
        images = []
        for some in latents.div(self.vae.config.scaling_factor).to(self.vae.dtype).split(chunk):
            pixels = self.vae.decode(some).sample.float().clamp(-1, 1)
            images.append((pixels_to_levels(pixels) if levels else pixels).cpu())
        return torch.cat(images)


def to_image(pixels: Tensor) -> Image.Image:
    """An image (3, S, S) in [-1, 1] as people look at it."""
    return Image.fromarray(to_images(pixels))
