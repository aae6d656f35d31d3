"""Training of the F that replaces Stable Diffusion's at the small scale, without prompts.

Shape letters: B images, C latent channels, H W latent size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from core.model_folders import load_vae
from core.seeding import (
    normal,
    normal_by_row,
    stream_generators,
    stream_timesteps,
    torch_generator,
)
from datamodules.pool import has_pair
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.pretrained import Backbone, save_backbone
from lightning_modules.networks.reference import ReferenceBank, attention_inputs
from lightning_modules.optimization import Learning, Optimization, step_generator
from lightning_modules.sampling.ddim import sample
from lightning_modules.sampling.settings import Sampling

# Stable Diffusion 1.5's
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "clip_sample": False,
}

UNET_LEARNING = Learning(rate=5e-4, decay="cosine", warmup_steps=500)


class Draws(NamedTuple):
    """Draws of Eq. 1 for B posteriors: standard normal noise (B, C, H, W) of the latents and that of the
    diffusion, and timesteps (B,)."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor


class BackboneModule(pl.LightningModule):
    """Trains F on single images by Eq. 1 with the empty prompt, `L = E‖ε − ε_θ(z_t, ∅, t)‖²`.

    Batches are {"moments": (B, 2C, H, W)}, posterior moments of the VAE in the model folder `vae`. The empty
    prompt is one token of normal noise, fixed by the seed; no other prompt is trained.

    Args:
        reading: the share of steps in which F's self-attentions also read F's own features of another view of
            the same person (Eq. 4 with F in place of F_ref). This teaches F to find correspondences between
            images, as Stable Diffusion does without further training. Needs a pool with `pairs`. No gradient
            flows through the features that are read
    """

    def __init__(
        self,
        vae: str,
        block_out_channels: list[int],
        layers_per_block: int = 1,
        attention_heads: int = 4,
        cross_attention_dim: int = 64,
        norm_num_groups: int = 16,
        reading: float = 0.0,
        learning: Learning = UNET_LEARNING,
        sample_steps: int = 50,
        half_precision: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["learning"])
        self.learning = learning
        self.vae = load_vae(Path(vae)).requires_grad_(False)
        levels = len(block_out_channels)
        unet = UNet2DConditionModel(
            in_channels=self.vae.config.latent_channels,
            out_channels=self.vae.config.latent_channels,
            sample_size=self.vae.config.sample_size // 2 ** (len(self.vae.config.block_out_channels) - 1),
            block_out_channels=tuple(block_out_channels),
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            layers_per_block=layers_per_block,
            attention_head_dim=attention_heads,
            cross_attention_dim=cross_attention_dim,
            norm_num_groups=norm_num_groups,
        )
        empty_prompt = torch.randn(1, 1, cross_attention_dim, generator=torch_generator(seed, "empty prompt"))
        self.denoiser = Denoiser(unet, empty_prompt)
        self.scheduler = DDPMScheduler(**SCHEDULE)

    def train(self, mode: bool = True) -> "BackboneModule":
        """Keeps the frozen VAE in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        return self

    def draws(self, moments: Tensor, seed: int | str, positions: Sequence[int]) -> Draws:
        """Noise and timesteps for posteriors (B, 2C, H, W). They are functions of a seed and of positions in
        the stream or the validation set, independent of batches and ranks."""
        mean = moments.float().chunk(2, 1)[0]
        draws = stream_generators(seed, positions)
        latents, noise = (normal_by_row(mean.shape, draws, mean) for _ in range(2))
        timesteps = stream_timesteps(seed, positions, 1, self.scheduler.config.num_train_timesteps)
        return Draws(latents, noise, timesteps.flatten().to(mean.device))

    def loss(self, moments: Tensor, drawn: Draws, read: Tensor | None = None) -> Tensor:
        """Eq. 1 (B,) for posteriors (B, 2C, H, W).

        With `read`, posteriors of the same shape, F's self-attentions for item b also read F's features of
        `read[b]`.
        """
        posterior = DiagonalGaussianDistribution(moments.float())
        latents = (posterior.mean + posterior.std * drawn.latents) * self.vae.config.scaling_factor
        noised = self.scheduler.add_noise(latents, drawn.noise, drawn.timesteps)
        bank = None if read is None else self.bank(read)
        predicted = self.denoiser(noised, drawn.timesteps, bank)
        return F.mse_loss(predicted.float(), drawn.noise, reduction="none").mean((1, 2, 3))

    @torch.no_grad()
    def bank(self, moments: Tensor) -> ReferenceBank:
        """F's own features of the clean latents of posteriors (B, 2C, H, W), at timestep zero."""
        latents = DiagonalGaussianDistribution(moments.float()).mean * self.vae.config.scaling_factor
        denoiser, timesteps = self.denoiser, torch.zeros(len(moments), device=moments.device)
        return ReferenceBank(attention_inputs(denoiser.unet, latents, timesteps, denoiser.empty_prompt))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Eq. 1 at random timesteps. In a share `reading` of the steps, F also reads another view of each
        image's person, and the loss is over the images that have another view. If no rank has such an image,
        the step is an ordinary one."""
        share = None
        if torch.rand(1, generator=step_generator(self, self.hparams.seed, batch_idx)) < self.hparams.reading:
            share = self.trainer.strategy.reduce(has_pair(batch).float().mean(), reduce_op="mean")
            share = share if share > 0 else None
        loss = self.training_loss(batch, share)
        name = "train/loss" if share is None else "train/loss_reading"
        self.log(name, loss, prog_bar=True, sync_dist=True)
        return loss

    def training_loss(self, batch: dict[str, Tensor], share: Tensor | None = None) -> Tensor:
        """The scalar loss of a training batch (Eq. 1), with noise and timesteps drawn by position in the
        stream.

        Args:
            batch: this rank's batch; see `Pool.batch`
            share: None for Eq. 1 alone. Otherwise F also reads another view, and `share` is the fraction of
                all ranks' images that have one, so that the mean over ranks is the mean over these images
        """
        moments = batch["moments"]
        drawn = self.draws(moments, self.hparams.seed, batch["position"].tolist())
        if share is None:
            return self.loss(moments, drawn).mean()
        losses = self.loss(moments, drawn, batch["other_moments"])
        return (losses * has_pair(batch) / share).mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Logs `val/loss`: Eq. 1 at timesteps and noise that are fixed for each image.

        If `reading` is above 0, also logs the loss of the images that have another view of the same person
        while F reads that view (`val/loss_reading`), a view of another person (`val/loss_reading_another`),
        or none (`val/loss_reading_nobody`), all with the same noise.
        """
        moments, position = batch["moments"], batch["position"]
        loss = self.loss(moments, self.draws(moments, "validation", position.tolist())).mean()
        self.log("val/loss", loss, batch_size=len(moments), prog_bar=True, sync_dist=True)
        if not self.hparams.reading or not has_pair(batch).any():
            return
        chosen = has_pair(batch)
        moments, position = moments[chosen], position[chosen]
        drawn = self.draws(moments, "validation reading", position.tolist())
        views = {"": batch["other_moments"], "_another": batch["another_moments"]}
        for name, view in (views | {"_nobody": None}).items():
            loss = self.loss(moments, drawn, None if view is None else view[chosen]).mean()
            self.log(f"val/loss_reading{name}", loss, batch_size=len(moments), sync_dist=True)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"samples": (B, 1, 3, S, S)} in [-1, 1]: an unconditional sample for each image of the batch."""
        noise = normal(
            batch["moments"].chunk(2, 1)[0].shape, torch_generator("pictures"), self.denoiser.empty_prompt
        )
        latents = sample(
            self.denoiser, self.scheduler, noise, Sampling(self.hparams.sample_steps, guidance=1.0)
        )
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return {"samples": images.float().clamp(-1, 1).unsqueeze(1)}

    def configure_optimizers(self) -> Optimization:
        """AdamW on F."""
        return self.learning.configure(self.denoiser.unet.parameters(), self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out the frozen VAE."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("vae.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the tensors that `on_save_checkpoint` left out, so that loading is strict."""
        fixed = {f"vae.{name}": value for name, value in self.vae.state_dict().items()}
        checkpoint["state_dict"] = {**fixed, **checkpoint["state_dict"]}

    def export(self, folder: Path) -> None:
        """Write the backbone as a Stable Diffusion folder. Raises InputError if `folder` exists."""
        denoiser = self.denoiser
        backbone = Backbone(self.vae, denoiser.unet, self.scheduler, denoiser.empty_prompt)
        save_backbone(backbone, str(folder), torch.float16 if self.hparams.half_precision else None)
