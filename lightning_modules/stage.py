"""Base class of the training stages: the frozen backbone, Eq. 1, fixed validation losses, pictures,
checkpoints.

Shape letters: B frames, V views, R references, C channels, H W latent size, S image side.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from core import fingerprints
from core.errors import InputError
from core.seeding import (
    normal,
    normal_by_row,
    stream_generators,
    stream_timesteps,
    torch_generator,
)
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.pretrained import Backbone, load_backbone
from lightning_modules.networks.provenance import Lineage, ReferenceTimestep, StageCard
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.speed import tune
from lightning_modules.optimization import Learning
from lightning_modules.parts import load_part
from lightning_modules.sampling.ddim import portrait_bank, sample
from lightning_modules.sampling.prediction import Inputs
from lightning_modules.sampling.settings import Sampling
from lightning_modules.trained_part import ExportDtype, TrainedPart
from shards.latents import vae_fingerprint

Batch = dict[str, Any]
FrozenDtype = Literal["float32", "bfloat16"]
LEARNING = Learning()


class Drawn(NamedTuple):
    """Further inputs of Eq. 1: clean latents of references (B, R, 4, H, W), None without a reference, and of
    targets (B, V, 4, H, W); the noise added to the targets, of the same shape; and timesteps (B, V)."""

    references: Tensor | None
    latents: Tensor
    noise: Tensor
    timesteps: Tensor


class Stage(TrainedPart):
    """Trains one part of the model on batches of `PortraitViewsDataModule`; everything else is frozen.

    A subclass adds its networks to `denoiser`, loads the parts of earlier stages, and sets `part` to the name
    of the trained submodule; `probes` measure the part's contribution.

    Args:
        backbone: a Stable Diffusion 1.5 folder of any width, or a hub id
        mirror: mirror all images of a random half of the training frames
        timestep_shift: 1 for uniform timesteps, as in the paper; above 1, noisy ones are more frequent
        frozen_dtype: "bfloat16" stores matrices and kernels of frozen parts in the precision to which
            bf16-mixed rounds them at each use: half the memory, identical results
        encode_batch: images that the VAE encodes at a time
        channels_last: keep the networks in channels-last memory; see `networks.speed`
        compile: compile the networks with torch.compile; see `networks.speed`
        sample_steps: denoising steps of the pictures
        guidance: guidance scale of the pictures
    """

    shown_views: ClassVar[int] = 1
    reference_timestep: ReferenceTimestep
    """The timestep of F_ref: "zero", with which features are computed once per portrait, or the "current"
    one."""

    def __init__(
        self,
        backbone: str,
        learning: Learning = LEARNING,
        mirror: bool = False,
        timestep_shift: float = 1.0,
        gradient_checkpointing: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        frozen_dtype: FrozenDtype = "float32",
        encode_batch: int = 64,
        sample_steps: int = 50,
        guidance: float = 3.0,
        export_dtype: ExportDtype = "float16",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["learning"])
        self.learning = learning
        loaded = self.load_backbone(backbone)
        self.vae = loaded.vae
        self.downsampling = loaded.downsampling
        self.scheduler = loaded.scheduler
        self.reference = AppearanceReference.from_unet(loaded.unet)
        self.reference.gradient_checkpointing = gradient_checkpointing
        self.denoiser = Denoiser(
            loaded.unet, loaded.empty_prompt, gradient_checkpointing=gradient_checkpointing
        )
        self.fingerprint, self.vae_fingerprint = self.identify(loaded)
        self.lineage = Lineage(self.fingerprint)

    def load_backbone(self, path_or_hub_id: str) -> Backbone:
        """F and its VAE, as `backbone` names them. Raises InputError."""
        return load_backbone(path_or_hub_id)

    def identify(self, backbone: Backbone) -> tuple[str, str]:
        """The fingerprints of F and of its VAE."""
        return fingerprints.of_tensors(backbone.unet.state_dict()), vae_fingerprint(backbone.vae)

    def freeze(self) -> None:
        """Freezes everything except the stage's part; a subclass calls it once all parts are built."""
        self.requires_grad_(False)
        self.trained.requires_grad_(True)
        if self.hparams.frozen_dtype == "bfloat16":
            store_frozen(self, torch.bfloat16)

    def load(self, module: ModelMixin, path: str, stage: str) -> StageCard:
        """Loads a frozen part from the exported folder or checkpoint of `stage` at `path`. Raises InputError
        if it is of another stage or backbone, or was not trained with the parts loaded before it."""
        card = load_part(module, path, stage, self.fingerprint)
        self.lineage.add(card, module.state_dict(), path)
        self.reference_timestep = card.reference_timestep(path)
        return card

    @property
    def card(self) -> StageCard:
        """Provenance metadata of the trained part."""
        settings = self.lineage.settings(self.reference_timestep)
        return StageCard(self.stage, self.part, self.fingerprint, settings)

    def setup(self, stage: str) -> None:
        """Converts to channels-last memory, if set, before DDP lays out gradients like the parameters.

        Raises InputError if frozen parts are in bfloat16 and the trainer's precision is not bf16-mixed.
        """
        if self.hparams.frozen_dtype == "bfloat16" and self.trainer.precision != "bf16-mixed":
            raise InputError(
                "model.frozen_dtype bfloat16 is for trainer.precision bf16-mixed, "
                f"not {self.trainer.precision}"
            )
        for network in (self.denoiser, self.reference):
            tune(network, channels_last=self.hparams.channels_last)

    def on_fit_start(self) -> None:
        """Compiles, if set, once the networks are on their device."""
        for network in (self.denoiser, self.reference):
            tune(network, compile=self.hparams.compile)

    # The loss

    @torch.no_grad()
    def encode(self, images: Tensor, draws: Sequence[torch.Generator] | None = None) -> Tensor:
        """Encode images (B, …, 3, S, S) in [-1, 1] to latents (B, …, 4, H, W) in F's scale: the posterior's
        mean, or a sample of it with a generator for each of the B frames."""
        chunks = images.flatten(0, -4).split(self.hparams.encode_batch)
        posteriors = [self.vae.encode(chunk).latent_dist for chunk in chunks]
        return self._scaled(posteriors, images.shape[:-3], draws)

    def latents(self, batch: Batch, name: str, draws: Sequence[torch.Generator] | None = None) -> Tensor:
        """The latents (B, N, 4, H, W) of a batch's "reference" or "target" (`name`), as from `encode`; from
        cached moments if the batch has them."""
        moments = batch.get(f"{name}_moments")
        if moments is None:
            return self.encode(batch[name], draws)
        return self._scaled([DiagonalGaussianDistribution(moments.flatten(0, 1))], moments.shape[:2], draws)

    def _scaled(
        self,
        posteriors: Sequence[DiagonalGaussianDistribution],
        shape: torch.Size,
        draws: Sequence[torch.Generator] | None,
    ) -> Tensor:
        """Latents (B, …, 4, H, W) in F's scale from the posteriors of `shape` (B, …) images."""
        latents = torch.cat([posterior.mean.float() for posterior in posteriors]).unflatten(0, shape)
        if draws is not None:
            deviation = torch.cat([posterior.std.float() for posterior in posteriors]).unflatten(0, shape)
            latents = latents + deviation * normal_by_row(latents.shape, draws, latents)
        return latents * self.vae.config.scaling_factor

    def bank_of(self, references: Tensor, timesteps: Tensor) -> Any:
        """F_ref's bank for clean latents (B, R, 4, H, W); `timesteps` (B,) are the targets'."""
        seen = timesteps if self.reference_timestep == "current" else torch.zeros_like(timesteps)
        with nullcontext() if self.reference is self.trained else torch.no_grad():
            return self.reference(references, seen, self.denoiser.empty_prompt)

    def denoise(
        self, batch: Batch, references: Tensor | None, latents: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Eq. 1 for each view: the mean squared error (B, V) of the predicted noise, for latents (B, V, 4, H,
        W) noised with `noise` of the same shape to `timesteps` (B, V), with references (B, R, 4, H, W) or
        none."""
        views = latents.shape[1]
        flat = timesteps.flatten()
        noised = self.scheduler.add_noise(latents.flatten(0, 1), noise.flatten(0, 1), flat)
        condition = batch["condition"].flatten(0, 1) if self.denoiser.control is not None else None
        bank = None if references is None else self.bank_of(references, timesteps[:, 0])
        predicted = self.denoiser(noised, flat, bank, condition=condition, views=views)
        return (predicted.float() - noise.flatten(0, 1)).square().mean((1, 2, 3)).unflatten(0, (-1, views))

    @property
    def one_timestep(self) -> bool:
        """Whether the views of a frame share a timestep: if they attend to each other, or if F_ref's timestep
        is the current one."""
        return self.denoiser.cross_view is not None or self.reference_timestep == "current"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Eq. 1 at random timesteps."""
        loss = self.training_loss(batch)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def training_loss(self, batch: Batch) -> Tensor:
        """Eq. 1 for a training batch, a scalar. Noise and timesteps are functions of the frames' positions in
        the stream, independent of the number of ranks."""
        seed, positions = self.hparams.seed, batch["position"].tolist()
        draws = stream_generators(seed, positions)
        if self.hparams.mirror:
            batch = mirrored(batch, draws)
        latents = self.latents(batch, "target", draws)
        frames, views = latents.shape[:2]
        total = self.scheduler.config.num_train_timesteps
        count = 1 if self.one_timestep else views
        timesteps = stream_timesteps(seed, positions, count, total, self.hparams.timestep_shift)
        timesteps = timesteps.expand(frames, views).to(latents.device)
        noise = normal_by_row(latents.shape, draws, latents)
        return self.denoise(batch, self.latents(batch, "reference"), latents, noise, timesteps).mean()

    # Validation

    def fixed_draws(self, keys: Sequence[str], latents: Tensor) -> tuple[Tensor, Tensor]:
        """Noise like latents (B, V, 4, H, W) and timesteps (B, V), functions of the frames' keys only.

        Unless they are shared, the timesteps of a frame's views are spread evenly over the schedule.
        """
        views, total = latents.shape[1], self.scheduler.config.num_train_timesteps
        draws = [torch_generator("validation", key) for key in keys]
        noise = torch.stack([normal(latents.shape[1:], draw, latents) for draw in draws])
        place = torch.stack([torch.rand(1, generator=draw) for draw in draws])
        steps = torch.zeros(views) if self.one_timestep else torch.arange(views) / views
        return noise, ((place + steps).remainder(1) * total).long().to(latents.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `val/loss`, and the contribution of each input in `probes`.

        For a probe x, `val/loss_without_x` is the loss without x, everything else equal, and `val/x_gain` its
        increase over the loss with x, both over the frames to which the probe applies.
        """
        references, latents = self.latents(batch, "reference"), self.latents(batch, "target")
        drawn = Drawn(references, latents, *self.fixed_draws(batch["key"], latents))
        valid = batch["valid"].float()
        right = self.denoise(batch, *drawn).mean(1)
        self.log_mean("val/loss", right, valid, prog_bar=True)
        for name, (without, counted) in self.probes(batch, drawn).items():
            self.log_mean(f"val/loss_without_{name}", without, valid * counted)
            self.log_mean(f"val/{name}_gain", without - right, valid * counted, prog_bar=True)

    def probes(self, batch: Batch, drawn: Drawn) -> dict[str, tuple[Tensor, Tensor]]:
        """Losses (B,) without an input, by the input's name, and a mask (B,) of the frames to which they
        apply.

        `reference`: with another person's reference, if the validation set has another person.
        """
        swapped = drawn._replace(references=self.encode(batch["other_reference"]))
        return {"reference": (self.denoise(batch, *swapped).mean(1), batch["other_valid"])}

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """{"samples": (B, P, 3, S, S)} in [-1, 1]: the reference, then for each of `shown_views` views the
        condition (if used), the target, and the sample."""
        references, views = self.encode(batch["reference"]), min(self.shown_views, batch["target"].shape[1])
        shape = (views, *references.shape[2:])
        noise = [normal(shape, torch_generator("pictures", key), references) for key in batch["key"]]
        timestep = 0 if self.reference_timestep == "zero" else None
        condition = batch["condition"][:, :views] if self.denoiser.control is not None else None
        settings = Sampling(self.hparams.sample_steps, self.hparams.guidance, window=views)
        inputs = Inputs(
            portrait_bank(self.denoiser, self.reference, references, timestep),
            None if condition is None else condition.flatten(0, 1),
        )
        latents = sample(self.denoiser, self.scheduler, torch.cat(noise), settings, inputs, views=views)
        columns = [batch["target"][:, :views], self.decode(latents).unflatten(0, (-1, views))]
        columns = columns if condition is None else [condition, *columns]
        shown = torch.stack(columns, 2).flatten(1, 2)
        return {"samples": torch.cat([batch["reference"][:, :1], shown], 1)}

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (N, 4, H, W) in F's scale to images (N, 3, S, S) in [-1, 1]."""
        chunks = latents.split(self.hparams.encode_batch)
        images = torch.cat([self.vae.decode(x / self.vae.config.scaling_factor).sample for x in chunks])
        return images.float().clamp(-1, 1)


def store_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of frozen convolutions and linear layers, which autocast rounds to `dtype` at each
    use, in that dtype."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for name, parameter in layer.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    setattr(layer, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))


def mirrored(batch: Batch, draws: Sequence[torch.Generator]) -> Batch:
    """The batch with all images of about half of its B frames mirrored, or their cached moments replaced by
    those of the mirrored images. Cameras, which no stage uses, are unchanged. `draws`: B generators."""
    picks = torch.cat([torch.rand(1, generator=draw) for draw in draws]).lt(0.5).view(-1, 1, 1, 1, 1)
    turned: Batch = {
        name: batch[name].flip(-1) for name in ("reference", "target", "condition") if name in batch
    }
    for name in ("reference", "target"):
        if f"{name}_moments" in batch:
            turned[f"{name}_moments"] = batch[f"{name}_mirrored_moments"]
    return batch | {name: torch.where(picks.to(x.device), x, batch[name]) for name, x in turned.items()}
