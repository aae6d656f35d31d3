"""A whole model in one folder: the backbone, and beside it the paper's networks that have been trained."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.modeling_utils import ModelMixin

from lightning_modules.networks.cards import CARD, StageCard, fingerprint
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.pretrained import Backbone, load_backbone, write_backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.weights import (
    load_model,
    read_json,
    read_weights,
    save_model,
    whole_folder,
)
from shards.errors import InputError

REFERENCE, CONTROL, CROSS_VIEW, NOISE_PRIOR = (
    "appearance_reference",
    "view_control",
    "cross_view",
    "noise_prior",
)
# The stage that trains a part, and where the part is in it.
STAGES = {
    REFERENCE: ("appearance", "reference"),
    CONTROL: ("view_control", "denoiser.control"),
    CROSS_VIEW: ("view_consistency", "denoiser.cross_view"),
}
ReferenceTimestep = Literal["zero", "current"]


@dataclass(frozen=True)
class PortraitModel:
    """F and its VAE (3.1), F_ref (3.2), and F_cam (3.3), V and S (3.4) where they have been trained.

    `reference_timestep` is what F_ref sees: "zero", so that its features are computed once a portrait, or the
    "current" one, as released.
    """

    backbone: Backbone
    reference: AppearanceReference
    control: ControlNetModel | None = None
    cross_view: CrossView | None = None
    noise_prior: NoisePrior | None = None
    reference_timestep: ReferenceTimestep = "current"

    def denoiser(self) -> Denoiser:
        """F with all that is there attached."""
        return Denoiser(self.backbone.unet, self.backbone.empty_prompt, self.control, self.cross_view)


def load_portrait_model(path: str, dtype: torch.dtype = torch.float32) -> PortraitModel:
    """The model in a folder of `save_portrait_model` or `import_released`, in `dtype` and `eval`.

    Raises InputError on a folder without F_ref, on parts trained with another backbone or another
    `reference_timestep`, and on damaged files.
    """
    folder = Path(path)
    if not (folder / REFERENCE).is_dir():
        raise InputError(
            f"{folder} has no {REFERENCE}/: give a folder that import_released or training has made"
        )
    backbone = load_backbone(path, dtype)
    timestep = _check_cards(folder, fingerprint(read_weights(folder / "unet")))

    def part(cls: type[ModelMixin], name: str) -> ModelMixin | None:
        return load_model(cls, folder / name, dtype) if (folder / name).is_dir() else None

    return PortraitModel(
        backbone,
        load_model(AppearanceReference, folder / REFERENCE, dtype),
        part(ControlNetModel, CONTROL),
        part(CrossView, CROSS_VIEW),
        part(NoisePrior, NOISE_PRIOR),
        timestep,
    )


def _check_cards(folder: Path, backbone: str) -> ReferenceTimestep:
    """What F_ref sees, by the cards of the parts; the current timestep where no part has one, as released."""
    timesteps = {}
    for name in STAGES:
        path = folder / name / CARD
        if path.is_file():
            card = StageCard.parse(read_json(path), str(path))
            card.check(card.stage, backbone, str(path))
            timesteps[name] = card.settings.get("reference_timestep")
    if unknown := set(timesteps.values()) - set(get_args(ReferenceTimestep)):
        raise InputError(f"{folder}: reference_timestep {unknown.pop()!r} is none of a part's settings")
    if len(set(timesteps.values())) > 1:
        raise InputError(f"{folder}: its parts were trained with F_ref at different timesteps ({timesteps})")
    return next(iter(timesteps.values()), "current")


def save_portrait_model(model: PortraitModel, path: str, dtype: torch.dtype | None = None) -> None:
    """The folder that `load_portrait_model` reads, in `dtype` or as it is.

    Raises InputError where `path` exists; nothing half-written is left under that name.
    """
    with whole_folder(Path(path)) as folder:
        write_portrait_model(model, folder, dtype)


def write_portrait_model(model: PortraitModel, folder: Path, dtype: torch.dtype | None = None) -> None:
    """The same into a folder that is there already, whose other files are left alone."""
    write_backbone(model.backbone, folder, dtype)
    parts = {REFERENCE: model.reference, CONTROL: model.control, CROSS_VIEW: model.cross_view}
    for name, part in parts.items():
        if part is not None:
            save_model(part, folder / name, dtype)
    write_cards(folder, model.reference_timestep)
    if model.noise_prior is not None:
        save_model(model.noise_prior, folder / NOISE_PRIOR, dtype)


def write_cards(folder: Path, reference_timestep: ReferenceTimestep) -> None:
    """Beside each part in a model's folder, the card by which stages and `load_portrait_model` know it."""
    backbone = fingerprint(read_weights(folder / "unet"))
    for name, (stage, place) in STAGES.items():
        if (folder / name).is_dir():
            card = StageCard(stage, place, backbone, {"reference_timestep": reference_timestep})
            (folder / name / CARD).write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")
