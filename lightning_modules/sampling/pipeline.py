"""The paper's inference (3.4, A.2) as a diffusers pipeline: a portrait and cameras to images.

Shape letters: B portraits, R references of a portrait, K views of a path, S image side, H W latent size.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from core.errors import InputError
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.portrait import PortraitModel
from lightning_modules.networks.pretrained import Backbone
from lightning_modules.networks.preview import PreviewDecoder
from lightning_modules.networks.provenance import ReferenceTimestep
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.speed import tune
from lightning_modules.networks.text import check_prompt, embed_prompt
from lightning_modules.sampling.absent_methods import AbsentMethodsMixin
from lightning_modules.sampling.call_options import (
    StepCallback,
    check_output_type,
    draw_seed,
    sampling_settings,
    step_end,
    to_output,
)
from lightning_modules.sampling.ddim import OnStepEnd, portrait_bank, sample
from lightning_modules.sampling.folders import FoldersMixin
from lightning_modules.sampling.inputs import pil_images, portrait_pixels, square_levels, view_count
from lightning_modules.sampling.latents import LatentsMixin
from lightning_modules.sampling.loras import LoraMixin
from lightning_modules.sampling.offloading import OffloadingMixin
from lightning_modules.sampling.prediction import Inputs
from lightning_modules.sampling.prior import PriorMixin
from lightning_modules.sampling.schedulers import scheduler_for
from lightning_modules.sampling.settings import PAPER, Sampling
from lightning_modules.sampling.starting_noise import step_generators
from portraits.cameras import check_labels
from portraits.pixels import to_images


@dataclass
class Views(BaseOutput):
    """Output of the pipeline: `images`, K views; see `call_options.to_output`."""

    images: Any


class DiffPortrait3DPipeline(
    AbsentMethodsMixin, FoldersMixin, OffloadingMixin, LatentsMixin, LoraMixin, PriorMixin, DiffusionPipeline
):
    """Novel views of a portrait.

    `from_pretrained` loads a folder that `save_pretrained`, `import_released` or training has written.

    Args:
        vae: the VAE of F.
        unet: F (3.1).
        scheduler: a training schedule (DDPM), sampled by DDIM on the released grid of timesteps, or another
            diffusers scheduler, used as configured.
        appearance_reference: F_ref (3.2).
        view_control: F_cam (3.3), a ControlNet; without it views follow no camera.
        cross_view: V (3.4).
        noise_prior: S (3.4), for 3D-aware noise.
        reference_timestep: the timestep of F_ref: "zero", or "current", as in the released model.
        empty_prompt: the text embedding (1, T, D) of the empty prompt.
        text_folder: a folder with the tokenizer/ and text_encoder/ that embed other prompts.
        preview_decoder: a small decoder of latents, for the setting decoder="preview".
    """

    _optional_components = [  # noqa: RUF012 (diffusers' own name)
        "view_control", "cross_view", "noise_prior", "preview_decoder"]  # fmt: skip

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
        text_folder: Path | None = None,
        preview_decoder: PreviewDecoder | None = None,
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
            preview_decoder=preview_decoder,
        )
        self.register_to_config(reference_timestep=reference_timestep)
        self.empty_prompt, self.text_folder = empty_prompt, text_folder
        self.replicas: tuple[Denoiser, ...] = ()
        self.compiled = False
        self._denoiser: Denoiser | None = None
        self._loras: dict[str, float] = {}

    # Networks

    @classmethod
    def of(cls, model: PortraitModel) -> Self:
        """A pipeline of loaded networks."""
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
            backbone.text_folder,
            model.preview_decoder,
        )

    @property
    def model(self) -> PortraitModel:
        """The networks."""
        backbone = Backbone(self.vae, self.unet, self.scheduler, self.empty_prompt, self.text_folder)
        return PortraitModel(
            backbone,
            self.appearance_reference,
            self.view_control,
            self.cross_view,
            self.noise_prior,
            self.config.reference_timestep,
            self.preview_decoder,
        )

    @property
    def denoiser(self) -> Denoiser:
        """F with F_cam and V, compiled if set by `tune`; the same module until a part is replaced."""
        kept = self._denoiser
        parts = (self.unet, self.view_control, self.cross_view)
        if any(hasattr(part, "_orig_mod") for part in parts):  # what torch.compile returns
            raise InputError(
                "torch.compile of one network has no effect here, as layers of F, F_cam and V run in turn:"
                " pipeline.tune(compile=True) compiles them together"
            )
        if kept is None or (kept.unet, kept.control, kept.cross_view) != parts:
            kept = Denoiser(self.unet, self.empty_prompt, self.view_control, self.cross_view)
            self._denoiser = tune(kept, compile=self.compiled)
        prompt = self.empty_prompt.to(self._execution_device, self.unet.dtype)
        if kept.empty_prompt.device != prompt.device or kept.empty_prompt.dtype != prompt.dtype:
            kept.empty_prompt = prompt
        return kept

    def tune(self, channels_last: bool = False, compile: bool = False) -> Self:
        """Convert F, F_ref, F_cam and V to channels-last memory, or compile them; see `networks.speed`."""
        self.compiled, self._denoiser = compile, None
        tune(self.denoiser, channels_last=channels_last)
        tune(self.appearance_reference, channels_last=channels_last, compile=compile)
        return self

    def replicate(self, devices: Sequence[str | torch.device]) -> Self:
        """Copy F, F_cam and V to further devices, over which later calls distribute the windows of a path.
        Views do not change."""
        copies = (deepcopy(self.denoiser).to(device) for device in devices)
        self.replicas = tuple(tune(copy, compile=self.compiled) for copy in copies)
        return self

    def _renew_denoiser(self) -> None:
        self._denoiser = None
        self.replicate([copy.empty_prompt.device for copy in self.replicas])

    @property
    def image_size(self) -> int:
        """S, the side of the images that F was trained on, in pixels."""
        return self.unet.config.sample_size * self.model.backbone.downsampling

    # One person, with PIL images

    def __call__(
        self,
        portrait: Image.Image | Sequence[Image.Image],
        cameras: ArrayLike | None = None,
        conditions: Sequence[Image.Image] | None = None,
        proxies: Sequence[Image.Image] | None = None,
        seed: int | str = 0,
        progress: bool = True,
        *,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **sampling: Any,
    ) -> Views | tuple[Any]:
        """Generate K views of the person in `portrait`. The same seed gives the same views.

        Args:
            portrait: one or more photos (Eq. 5) of one person; their central squares are used.
            cameras: EG3D labels (K, 25), for S.
            conditions: K square images of another person at the target cameras, for F_cam.
            proxies: K square images for 3D-aware noise, instead of S's.
            seed: seed of all noise.
            progress: show a progress bar, unless `set_progress_bar_config(disable=True)` was called.
            generator: draws the seed, instead of `seed`.
            output_type: "pil", "np" or "pt"; see `call_options.to_output`.
            return_dict: return a tuple if False.
            callback_on_step_end: called after each step with this pipeline, the step, the timestep and
                {"latents": (K, 4, H, W)}; the latents that it returns in such a mapping replace them, and
                setting the pipeline's `_interrupt` ends sampling with the step.
            callback_on_step_end_tensor_inputs: "latents", and "pred_original_sample" for the clean latents
                that a step predicts (schedulers that do not predict them leave it out).
            sampling: fields of `Sampling`, or `preset`, the name of some of them, which others override;
                `num_inference_steps` and `guidance_scale` are accepted for `steps` and `guidance`.

        Raises InputError if inputs do not fit each other or the model.
        """
        references = pil_images(portrait, "portrait")
        conditions = None if conditions is None else pil_images(conditions, "conditions")
        proxies = None if proxies is None else pil_images(proxies, "proxies")
        labels = None if cameras is None else torch.from_numpy(check_labels(cameras, "cameras"))[None]
        view_count(cameras=None if labels is None else labels[0], conditions=conditions, proxies=proxies)
        check_output_type(output_type)
        on_step_end = step_end(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        images = self.views(
            self._portraits(references),
            self._levels(conditions, "conditions"),
            labels,
            self._levels(proxies, "proxies"),
            seeds=[seed if generator is None else draw_seed(generator)],
            sampling=sampling_settings(sampling, self.image_size),
            progress=progress and not getattr(self, "_progress_bar_config", {}).get("disable", False),
            levels=True,
            on_step_end=on_step_end,
        )
        output = to_output(images[0], output_type)
        return Views(images=output) if return_dict else (output,)

    def _portraits(self, images: Sequence[Image.Image]) -> Tensor:
        return portrait_pixels(images, self.image_size)

    def _levels(self, images: Sequence[Image.Image] | None, name: str) -> Tensor | None:
        return None if images is None else square_levels(images, self.image_size, name)

    # Batches of people, with tensors

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
        on_step_end: OnStepEnd | None = None,
    ) -> Tensor:
        """Generate views (B, K, 3, S, S) on the CPU, in [-1, 1], or uint8 if `levels`.

        A portrait's views are a function of its own inputs, its seed and `sampling`, independent of the rest
        of the batch.

        Args:
            references: (B, R, 3, S, S) in [-1, 1].
            conditions: (B, K, 3, S, S) in [-1, 1] or uint8, for F_cam.
            cameras: EG3D labels (B, K, 25), for S.
            proxies: (B, K, 3, S, S) in [-1, 1] or uint8, instead of S's.
            seeds: B seeds, one for each portrait.
            count: K, if it does not follow from the above.
            sampling: settings of sampling.
            progress: show a progress bar.
            levels: return uint8.
            on_step_end: see `ddim.sample`.

        Raises InputError if inputs do not fit each other or the model.
        """
        views = next((x.shape[1] for x in (conditions, cameras, proxies) if x is not None), count or 1)
        self._check(references, conditions, seeds)
        self._check_views(len(references), views, conditions, cameras, proxies)
        sampling = self._resolved(sampling, cameras, proxies)
        check_prompt(self.text_folder, sampling.prompt)
        scheduler_for(self.scheduler, sampling)
        self.decoder(sampling.decoder)
        denoiser = self.denoiser  # all raise before anything is computed
        latents = self.encode(references, sampling.chunk)
        start = self._start(latents, references, cameras, proxies, seeds, views, sampling).flatten(0, 1)
        with self._loaded(self.unet, self.appearance_reference, self.view_control, self.cross_view):
            clean = sample(
                denoiser,
                self.scheduler,
                start,
                sampling,
                self._inputs(latents, conditions, sampling),
                views=views,
                generators=step_generators(seeds, range(views)),
                progress=progress,
                replicas=self.replicas,
                on_step_end=on_step_end,
            )
        return self.decode(clean, sampling.chunk, levels, sampling.decoder).unflatten(
            0, (len(references), views)
        )

    def _inputs(self, latents: Tensor, conditions: Tensor | None, sampling: Sampling) -> Inputs:
        """What views are conditioned on: portraits' latents (B, R, 4, H, W), conditions (B, K, 3, S, S), and
        the prompt."""
        timestep = sampling.reference_timestep
        if timestep is None and self.config.reference_timestep == "zero":
            timestep = 0
        return Inputs(
            portrait_bank(self.denoiser, self.appearance_reference, latents, timestep),
            None if conditions is None else conditions.flatten(0, 1),
            self.embed_prompt(sampling.prompt),
        )

    @torch.no_grad()
    def embed_prompt(self, prompt: str) -> Tensor | None:
        """The embedding (1, T, D) of a prompt for F's text attention; None for "". Raises InputError if the
        model has no text encoder."""
        return embed_prompt(self.text_folder, prompt) if prompt else None

    def _check(self, references: Tensor, conditions: Tensor | None, seeds: Sequence[int | str]) -> None:
        if len(seeds) != len(references):
            raise InputError(f"{len(seeds)} seeds for {len(references)} portraits")
        if self.view_control is not None and conditions is None:
            raise InputError("no conditions: F_cam needs an image for each view; give images or render them")
        if self.view_control is None and conditions is not None:
            raise InputError("conditions were given, but the model has no view_control/ (F_cam)")

    def _check_views(self, people: int, views: int, *given: Tensor | None) -> None:
        for name, tensor in zip(("conditions", "cameras", "proxies"), given, strict=True):
            if tensor is not None and tensor.shape[:2] != (people, views):
                raise InputError(
                    f"{name} {tuple(tensor.shape)} do not fit {people} portraits of {views} views"
                )


def to_image(pixels: Tensor) -> Image.Image:
    """A PIL image of pixels (3, S, S) in [-1, 1]."""
    return Image.fromarray(to_images(pixels))
