"""Stages without weights, and batches for them: the memory of a training step is measured without data.

Shape letters: B frames, R references, V targets, S image side.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from core.errors import InputError
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.pretrained import Backbone
from lightning_modules.networks.provenance import StageCard
from lightning_modules.networks.shapes import unloaded_backbone
from lightning_modules.noise_prior import NoisePriorStage
from lightning_modules.stage import Batch, Stage
from lightning_modules.trained_part import TrainedPart
from metrics.perceptual_loss import PerceptualLoss, PerceptualWeights
from portraits.cameras import label_from_angles


@dataclass(frozen=True)
class BatchSize:
    """A training batch of one card: `frames` B, `references` R, `targets` V, `image_size` S in pixels."""

    frames: int
    references: int
    targets: int
    image_size: int

    def __post_init__(self) -> None:
        """Raise InputError for an empty batch."""
        settings = {**asdict(self), "batch_size": self.frames}  # frames is no setting's name
        for name in ("batch_size", "references", "targets", "image_size"):
            if settings[name] < 1:
                raise InputError(f"{name} {settings[name]}: give 1 or more")


class UnloadedStage(Stage):
    """Mixin, placed before a stage among the bases: builds the stage's networks without loading weights."""

    def load_backbone(self, path_or_hub_id: str) -> Backbone:
        """The backbone without its weights."""
        return unloaded_backbone(path_or_hub_id)

    def identify(self, backbone: Backbone) -> tuple[str, str]:  # noqa: ARG002
        """Empty fingerprints, as no weights are loaded."""
        return "", ""

    def load(self, module: ModelMixin, path: str, stage: str) -> StageCard:  # noqa: ARG002
        """Keep the part's random weights, and return an empty card."""
        self.reference_timestep = "zero"
        return StageCard(stage, "", "", {})


class UnloadedNoisePriorStage(NoisePriorStage):
    """Stage of S whose perceptual network has no weights either."""

    def load_perceptual(self, weights: PerceptualWeights) -> PerceptualLoss:
        """The network without its weights."""
        return PerceptualLoss(weights, pretrained=False)


def check_stage(stage: type) -> None:
    """Raise InputError on a class that is not one of the four stages."""
    if not issubclass(stage, Stage | NoisePriorStage):
        raise InputError(f"{stage.__name__} is not one of the stages: memory is for stages 1 to 3 and S")


def unloaded_stage(stage: type, settings: dict[str, Any]) -> TrainedPart:
    """A stage of this class with these constructor arguments, on PyTorch's default device; S is given by its
    settings. Raises InputError as `check_stage` does."""
    check_stage(stage)
    if issubclass(stage, NoisePriorStage):
        return UnloadedNoisePriorStage(**settings | {"prior": NoisePrior(**settings["prior"])})
    module: TrainedPart = type(stage.__name__, (UnloadedStage, stage), {})(**settings)
    return module


def empty_batch(module: TrainedPart, size: BatchSize, device: torch.device) -> Batch:
    """A batch of grey images as `PortraitViewsDataModule` makes them, with what the stage reads."""
    side = (3, size.image_size, size.image_size)
    images = {"reference": size.references, "target": size.targets}
    if isinstance(module, Stage) and module.denoiser.control is not None:
        images["condition"] = size.targets
    batch: Batch = {
        name: torch.zeros(size.frames, count, *side, device=device) for name, count in images.items()
    }
    camera = torch.from_numpy(label_from_angles(0.2, 0.1)).expand(size.frames, size.targets, -1).contiguous()
    return batch | {
        "position": torch.arange(size.frames),
        "key": [f"frame-{number}" for number in range(size.frames)],
        "camera": camera.to(device),
        "valid": torch.ones(size.frames, device=device),
        "other_reference": batch["reference"],
        "other_valid": torch.ones(size.frames, device=device),
    }


def training_loss(module: TrainedPart, batch: Batch) -> Tensor:
    """The scalar loss of a training step, to be differentiated."""
    if isinstance(module, NoisePriorStage):
        return module.training_losses(batch, batch["reference"].shape[1])[0]
    assert isinstance(module, Stage)
    return module.training_loss(batch)
