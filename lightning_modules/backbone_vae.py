"""Training of the autoencoder that replaces Stable Diffusion's at the small scale, with diffusers' class.

Shape letters: B images, S image side, N latents, C their channels, H W their size.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional as F

from core.files import whole_folder
from core.model_folders import save_model
from core.seeding import normal_by_row, stream_generators, torch_generator
from lightning_modules.networks.autoencoder import (
    colour_loss,
    texture_loss,
    turn_hue,
    whiten,
    with_frozen_encoder,
)
from lightning_modules.optimization import Learning, Optimization
from metrics.perceptual_loss import PerceptualLoss, PerceptualWeights
from portraits.pixels import levels_to_pixels

VAE_LEARNING = Learning(rate=1e-3, decay="cosine", warmup_steps=500, weight_decay=0.0)


class AutoencoderModule(pl.LightningModule):
    """Trains diffusers' AutoencoderKL on {"images": (B, 3, S, S) uint8}: L1 + perceptual + KL + colour +
    texture.

    Half of the images are mirrored.

    Args:
        block_out_channels: the widths; each entry after the first halves the resolution
        colour_weight: weight of `colour_loss` over the cells of the latents. Colours that few images have
            weigh little in the other losses, and are muted without it
        texture_weight: weight of `texture_loss` over the cells of the latents. What a decoder cannot know
            exactly, such as single hairs, is blurred without it
        hue: the share of training images whose hue is turned by a random angle, so that colours have to be
            read from the image, and cannot be guessed from its shapes
        decoder_of: the model folder of a VAE of this architecture to begin with. Its encoder is kept as it
            is and only the decoder is trained, on the posterior's mean and without the KL term, so that what
            was trained in its latents stays valid

    Raises InputError if `decoder_of` has another architecture.
    """

    def __init__(
        self,
        block_out_channels: list[int],
        layers_per_block: int = 1,
        latent_channels: int = 4,
        norm_num_groups: int = 16,
        image_size: int = 64,
        perceptual: PerceptualWeights = "efficientnet-lite0",
        perceptual_weight: float = 0.1,
        kl_weight: float = 1e-3,
        colour_weight: float = 0.0,
        texture_weight: float = 0.0,
        hue: float = 0.0,
        decoder_of: str | None = None,
        learning: Learning = VAE_LEARNING,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["learning"])
        self.learning = learning
        levels = len(block_out_channels)
        self.vae = AutoencoderKL(
            block_out_channels=tuple(block_out_channels),
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=image_size,
        )
        if decoder_of is not None:
            self.vae = with_frozen_encoder(decoder_of, self.vae)
        self.perceptual = PerceptualLoss(perceptual)

    def forward(
        self, images: Tensor, draws: Sequence[torch.Generator]
    ) -> tuple[Tensor, DiagonalGaussianDistribution]:
        """The reconstruction of images (B, 3, S, S) in [-1, 1], and the posterior that its latents were drawn
        from, with a generator for each image."""
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mean
        if self.hparams.decoder_of is None:
            latents = latents + posterior.std * normal_by_row(latents.shape, draws, latents)
        return self.vae.decode(latents).sample, posterior

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The weighted sum of the losses; each is logged."""
        loss, losses = self.training_losses(batch)
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, sync_dist=True)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def training_losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses of a training batch, and each of them by its name. Mirroring,
        hue and noise are functions of the images' positions in the stream, whatever the number of ranks."""
        draws = stream_generators(self.hparams.seed, batch["position"].tolist())
        images = self.augmented(levels_to_pixels(batch["images"]), draws)
        reconstruction, posterior = self(images, draws)
        losses = {
            "l1": F.l1_loss(reconstruction.float(), images),
            f"perceptual[{self.perceptual.weights}]": self.perceptual(reconstruction.float(), images),
            "kl": posterior.kl().float().mean() / images[0].numel(),
            "colour": colour_loss(reconstruction.float(), images, self.cell),
            "texture": texture_loss(reconstruction.float(), images, self.cell),
        }
        kl_weight = self.hparams.kl_weight if self.hparams.decoder_of is None else 0.0
        own = self.hparams
        weights = (1.0, own.perceptual_weight, kl_weight, own.colour_weight, own.texture_weight)
        loss = sum(weight * value for weight, value in zip(weights, losses.values(), strict=True))
        return loss, losses

    def augmented(self, images: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1], half of them mirrored and a share with another hue; a generator
        for each."""
        mirror, share, angle = torch.cat([torch.rand(3, 1, generator=draw) for draw in draws], 1)
        images = torch.where(mirror.lt(0.5).to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)
        angles = (angle * 2 - 1) * math.pi * share.lt(self.hparams.hue)
        return turn_hue(images, angles.to(images.device))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """`val/PSNR` in dB, `val/loss` (L1), `val/colour` and `val/texture`, means over images of
        reconstructions from the posterior's mean."""
        images = levels_to_pixels(batch["images"])
        reconstruction = self.reconstruct(images)
        mse = (reconstruction - images).div(2).square().mean((1, 2, 3))
        self.log(
            "val/PSNR", (-10 * mse.log10()).mean(), batch_size=len(images), prog_bar=True, sync_dist=True
        )
        losses = {
            "val/loss": F.l1_loss(reconstruction, images),
            "val/colour": colour_loss(reconstruction, images, self.cell),
            "val/texture": texture_loss(reconstruction, images, self.cell),
        }
        self.log_dict(losses, batch_size=len(images), sync_dist=True)

    @property
    def cell(self) -> int:
        """Side in pixels of the square that one latent encodes."""
        return 2 ** (len(self.hparams.block_out_channels) - 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """The reconstruction of images (B, 3, S, S) in [-1, 1] from the posterior's mean, clamped to [-1,
        1]."""
        return self.vae.decode(self.vae.encode(images).latent_dist.mode()).sample.float().clamp(-1, 1)

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"reconstructions": (B, 2, 3, S, S)} in [-1, 1]: image and reconstruction."""
        images = levels_to_pixels(batch["images"])
        return {"reconstructions": torch.stack([images, self.reconstruct(images)], 1)}

    def configure_optimizers(self) -> Optimization:
        """AdamW on the trainable part."""
        trained = [parameter for parameter in self.vae.parameters() if parameter.requires_grad]
        return self.learning.configure(trained, self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out the perceptual network, which is fixed and loaded from its own file."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("perceptual.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the tensors that `on_save_checkpoint` left out, so that loading is strict."""
        fixed = {f"perceptual.{name}": value for name, value in self.perceptual.state_dict().items()}
        checkpoint["state_dict"] = {**fixed, **checkpoint["state_dict"]}

    def export(self, folder: Path) -> None:
        """Write the VAE as a diffusers folder, its latents whitened and with `scaling_factor` 1 / their std,
        both over training images; or with the latents of `decoder_of`.

        Raises InputError if `folder` exists.
        """
        vae = self.vae
        if self.hparams.decoder_of is None:
            vae = copy.deepcopy(vae)
            whiten(vae, self.training_moments(vae))
            draw = torch_generator(self.hparams.seed, "std")
            latents = DiagonalGaussianDistribution(self.training_moments(vae)).sample(draw)
            vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
        with whole_folder(folder) as partial:
            save_model(vae, partial)

    @torch.no_grad()
    def training_moments(self, vae: AutoencoderKL, batches: int = 16) -> Tensor:
        """A VAE's means and log variances (N, 2C, H, W) for the first training batches of epoch 0, in main
        memory."""
        loader = self.trainer.datamodule.train_dataloader()
        moments = []
        for batch, _ in zip(loader, range(batches), strict=False):
            images = levels_to_pixels(batch["images"].to(self.device))
            moments.append(vae.encode(images).latent_dist.parameters.float().cpu())
        return torch.cat(moments)
