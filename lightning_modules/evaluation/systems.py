"""A common interface to the systems of a comparison: this project's model, and the baselines.

Shape letters: K views, R references, S image side.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from baselines.base import Request, ViewSynthesizer
from baselines.registry import open_baseline
from core.errors import InputError
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.sampling.loras import Lora, load_loras
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from portraits.pixels import Images, to_images, to_pixels

OURS = "DiffPortrait3D"


class System(Protocol):
    """A loaded system. `details` is recorded with its predictions, as JSON."""

    details: dict[str, Any]

    def batch_views(self, requests: Sequence[Request]) -> list[Images]:
        """The views (K, S, S, 3) of each request; all requests have equal numbers of references and views.
        Raises InputError for requests that the system does not support."""


class SystemChoice(Protocol):
    """The choice of a system."""

    def open(self, device: str) -> System:
        """Load the system. Raises InputError."""


@dataclass(frozen=True)
class ModelChoice:
    """A model folder, the settings of sampling, the dtype of its networks, whether F_ref is replaced by an
    untrained copy of F, and the LoRAs on F."""

    folder: Path
    sampling: Sampling = field(default_factory=Sampling)
    dtype: torch.dtype = torch.float32
    untrained_reference: bool = False
    loras: tuple[Lora, ...] = ()

    def open(self, device: str) -> "Model":
        """Load the model. Raises InputError if the folder does not hold one."""
        return Model(open_model(self).to(device), self.sampling)


@dataclass(frozen=True)
class BaselineChoice:
    """A baseline's kind, the folder of its weights, and its settings that differ from the defaults."""

    kind: str
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def open(self, device: str) -> "Baseline":
        """Load the baseline. Raises InputError."""
        return Baseline(open_baseline(self.kind, self.folder, device, self.settings))


class Model:
    """This project's model as a `System` and as a `ViewSynthesizer`."""

    name = OURS
    licence = "as the model's own folder says"

    def __init__(self, pipeline: DiffPortrait3DPipeline, sampling: Sampling) -> None:
        self.pipeline, self.sampling = pipeline, sampling
        self.native_size = pipeline.image_size
        self.details: dict[str, Any] = {}

    def views(self, request: Request) -> Images:
        """See `ViewSynthesizer.views`; if the model has F_cam, requests need conditions."""
        return self.batch_views([request])[0]

    def batch_views(self, requests: Sequence[Request]) -> list[Images]:
        """See `System.batch_views`."""
        pipeline, first = self.pipeline, requests[0]
        side = first.portraits.shape[1]
        if side != self.native_size:
            raise InputError(
                f"{first.name}: its images are {side}x{side}; the model needs {self.native_size}x"
                f"{self.native_size}"
            )
        conditions = [request.conditions for request in requests if request.conditions is not None]
        if pipeline.view_control is not None and len(conditions) < len(requests):
            raise InputError(f"{first.name}: the model's F_cam needs condition images")
        cameras = torch.from_numpy(np.stack([request.cameras for request in requests]))
        views = pipeline.views(
            to_pixels(np.stack([request.portraits for request in requests])),
            to_pixels(np.stack(conditions)) if pipeline.view_control is not None else None,
            cameras if pipeline.noise_prior is not None else None,
            seeds=[f"{request.seed} {request.name}" for request in requests],
            count=len(first.cameras),
            sampling=self.sampling,
        )
        return list(to_images(views))


class Baseline:
    """A baseline as a `System`, which processes requests one at a time."""

    def __init__(self, system: ViewSynthesizer) -> None:
        self.system = system
        self.details = {
            "name": system.name,
            "native_size": system.native_size,
            "licence": system.licence,
            "settings": asdict(getattr(system, "settings")),  # noqa: B009 (not in the protocol)
        }

    def batch_views(self, requests: Sequence[Request]) -> list[Images]:
        """See `System.batch_views`."""
        return [self.system.views(request) for request in requests]


def open_model(choice: ModelChoice) -> DiffPortrait3DPipeline:
    """The pipeline of a model. Raises InputError if the folder does not hold one, or a LoRA does not fit."""
    pipeline = DiffPortrait3DPipeline.from_pretrained(choice.folder, choice.dtype)
    if choice.untrained_reference:
        model = pipeline.model
        untrained = AppearanceReference.from_unet(model.backbone.unet).eval()
        pipeline = DiffPortrait3DPipeline.of(replace(model, reference=untrained))
    load_loras(pipeline, choice.loras)
    return pipeline
