"""Training of the noise prior S (3.4, A.1), which predicts blurry proxies of other views from portraits.

Shape letters: B people, R portraits of each, V views, S image side, s side of S's volume rendering.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.seeding import stream_generators
from lightning_modules.networks.noise_prior import NoisePrior, Proxies
from lightning_modules.networks.provenance import StageCard
from lightning_modules.optimization import Learning, step_generator
from lightning_modules.trained_part import ExportDtype, TrainedPart
from metrics.perceptual_loss import PerceptualLoss, PerceptualWeights
from portraits.cameras import LABEL_SIZE

Batch = dict[str, Any]
LEARNING = Learning(rate=5e-4, decay="cosine", warmup_steps=200)
SHOWN_VIEWS = 3


class NoisePriorStage(TrainedPart):
    """Trains S on batches of `PortraitViewsDataModule` by the L2 and perceptual distances of Ĩ to the target
    (A.1).

    Each step uses the first r of a person's R portraits, with r drawn from 1 to R.

    Args:
        prior: the network
        perceptual: the network of the perceptual distance; "vgg16" in the paper
        perceptual_weight: its weight relative to the mean squared error of images in [-1, 1]
        mirror: mirror the images and cameras of a random half of the people
    """

    stage: ClassVar[str] = "noise_prior"
    part: ClassVar[str] = "prior"

    def __init__(
        self,
        prior: NoisePrior,
        learning: Learning = LEARNING,
        perceptual: PerceptualWeights = "efficientnet-lite0",
        perceptual_weight: float = 0.02,
        mirror: bool = False,
        export_dtype: ExportDtype = "float16",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["prior", "learning"])
        self.learning = learning
        prior.register_to_config(perceptual=perceptual)
        self.prior = prior
        self.perceptual = self.load_perceptual(perceptual)

    def load_perceptual(self, weights: PerceptualWeights) -> PerceptualLoss:
        """The perceptual loss that `perceptual` names. Raises InputError without its weights."""
        return PerceptualLoss(weights)

    def setup(self, stage: str) -> None:
        """Raises InputError if the run's name contains another perceptual network than the one in use."""
        own = self.perceptual.weights
        for logger in self.trainer.loggers if stage == "fit" else ():
            for other in set(get_args(PerceptualWeights)) - {own}:
                if other in str(logger.name):
                    raise InputError(
                        f"the run is called {logger.name}, but its perceptual loss is {own}: add a YAML "
                        f"whose trainer.logger names the run after {own}"
                    )

    @property
    def card(self) -> StageCard:
        """S belongs to no backbone, as its outputs are images."""
        return StageCard(self.stage, self.part, "", {"perceptual": self.hparams.perceptual})

    def losses(self, proxies: Proxies, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The L2 and perceptual distances, scalars, of Ĩ to targets (B, V, 3, S, S)."""
        images, targets = proxies.images.float().flatten(0, 1), targets.flatten(0, 1)
        return F.mse_loss(images, targets), self.perceptual(images, targets)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of both losses, with random depths along rays; each is logged."""
        step = step_generator(self, self.hparams.seed, batch_idx)
        count = int(torch.randint(batch["reference"].shape[1], (), generator=step)) + 1
        loss, squared, perceptual = self.training_losses(batch, count)
        parts = {"train/l2": squared, f"train/perceptual[{self.perceptual.weights}]": perceptual}
        self.log_dict(parts, sync_dist=True)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def training_losses(self, batch: Batch, references: int) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted sum of both losses and each of them, of a training batch of which S sees the first
        `references` portraits of each person."""
        draws = stream_generators(self.hparams.seed, batch["position"].tolist())
        if self.hparams.mirror:
            batch = mirrored(batch, draws)
        canonical = self.prior.encode(batch["reference"][:, :references])
        squared, perceptual = self.losses(
            self.prior.proxies(canonical, batch["camera"], draws), batch["target"]
        )
        return squared + self.hparams.perceptual_weight * perceptual, squared, perceptual

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """`val/loss` and `val/PSNR` in dB from one portrait, means over people, without randomness.

        `val/PSNR_reference` is the PSNR of the portrait itself; `val/PSNR_all` is that of S with all R
        portraits, if there are several.
        """
        references, targets, valid = batch["reference"], batch["target"], batch["valid"].float()
        images = self.prior.proxies(self.prior.encode(references[:, :1]), batch["camera"]).images.float()
        rows = zip(images, targets, strict=True)
        perceptual = torch.stack([self.perceptual(image, target) for image, target in rows])
        squared = (images - targets).square().mean((1, 2, 3, 4))
        loss = squared + self.hparams.perceptual_weight * perceptual
        self.log_mean("val/loss", loss, valid, prog_bar=True)
        self.log_mean("val/PSNR", psnr(images.clamp(-1, 1), targets), valid, prog_bar=True)
        self.log_mean("val/PSNR_reference", psnr(references[:, :1], targets), valid)
        if references.shape[1] > 1:
            self.log_mean("val/PSNR_all", psnr(self.prior(references, batch["camera"]), targets), valid)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """{"proxies": (B, P, 3, S, S)} in [-1, 1]: a portrait, then target, Ĩ and depth of a few views."""
        targets, cameras = batch["target"][:, :SHOWN_VIEWS], batch["camera"][:, :SHOWN_VIEWS]
        proxies = self.prior.proxies(self.prior.encode(batch["reference"][:, :1]), cameras)
        images = proxies.images.float().clamp(-1, 1)
        depths = shown_depth(proxies, targets.shape[-1])
        views = torch.stack([targets, images, depths], dim=2).flatten(1, 2)
        return {"proxies": torch.cat([batch["reference"][:, :1], views], dim=1)}


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """PSNR in dB (B,) of images in [-1, 1] against targets (B, V, 3, S, S), the mean over views."""
    mse = (images - targets).div(2).square().mean((2, 3, 4))
    return (-10 * mse.clamp_min(1e-10).log10()).mean(1)


def shown_depth(proxies: Proxies, size: int) -> Tensor:
    """Depth as grey (B, V, 3, size, size) in [-1, 1], from white (nearest) to black (farthest); black outside
    the head."""
    depth, alpha = proxies.depth.float(), proxies.alpha.float()
    low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
    grey = (high - depth) / (high - low).clamp_min(1e-6) * alpha
    shown = F.interpolate(grey.mul(2).sub(1), size=(size, size), mode="nearest")
    return shown.unsqueeze(2).expand(-1, -1, 3, -1, -1)


def mirrored(batch: Batch, draws: Sequence[torch.Generator]) -> Batch:
    """The batch with all images and cameras of about half of its B people mirrored. `draws`: B generators."""
    chosen = torch.cat([torch.rand(1, generator=draw) for draw in draws]).lt(0.5).to(batch["target"].device)
    images = {
        name: torch.where(chosen.view(-1, 1, 1, 1, 1), batch[name].flip(-1), batch[name])
        for name in ("reference", "target")
    }
    camera = torch.where(chosen.view(-1, 1, 1), mirrored_labels(batch["camera"]), batch["camera"])
    return batch | images | {"camera": camera}


def mirrored_labels(labels: Tensor) -> Tensor:
    """EG3D labels (…, 25) of the cameras whose images of the world mirrored at x = 0 are the mirrored
    images."""
    axes = torch.tensor([-1.0, 1.0, 1.0, 1.0])
    signs, offsets = torch.ones(LABEL_SIZE), torch.zeros(LABEL_SIZE)
    signs[:16] = torch.outer(axes, axes).flatten()
    signs[17:19] = -1  # skew and the principal point's x
    offsets[18] = 1
    return labels * signs.to(labels) + offsets.to(labels)
