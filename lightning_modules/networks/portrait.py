"""A whole model in one folder: the backbone, and beside it the paper's networks that have been trained."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.modeling_utils import ModelMixin

from core import fingerprints
from core.errors import InputError
from core.files import whole_folder
from core.model_folders import load_model, read_json, read_weights, save_model, weight_files
from core.shipped import find_shipped
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.pretrained import Backbone, load_backbone, write_backbone
from lightning_modules.networks.provenance import (
    CARD,
    Lineage,
    ReferenceTimestep,
    StageCard,
    write_card,
)
from lightning_modules.networks.reference import AppearanceReference

REFERENCE, CONTROL, CROSS_VIEW, NOISE_PRIOR = (
    "appearance_reference",
    "view_control",
    "cross_view",
    "noise_prior",
)
# The stage that trains a part, and where the part is in it; in the order of the stages.
STAGES = {
    REFERENCE: ("appearance", "reference"),
    CONTROL: ("view_control", "denoiser.control"),
    CROSS_VIEW: ("view_consistency", "denoiser.cross_view"),
}
PRIOR_STAGE = ("noise_prior", "prior")  # which belongs to no backbone: S makes images


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

    Raises InputError on a folder without F_ref, on parts that were not trained with each other, on an S for
    images of another size, and on damaged files.
    """
    folder = find_shipped(path)
    if not (folder / REFERENCE).is_dir():
        raise InputError(
            f"{folder} has no {REFERENCE}/: give a folder that import_released or training has made"
        )
    backbone = load_backbone(path, dtype)
    timestep = _check_cards(folder, fingerprints.of_tensors(read_weights(folder / "unet")))

    def part(cls: type[ModelMixin], name: str) -> ModelMixin | None:
        return load_model(cls, folder / name, dtype) if (folder / name).is_dir() else None

    prior = part(NoisePrior, NOISE_PRIOR)
    if prior is not None:
        check_prior(prior, backbone, str(folder / NOISE_PRIOR))
    return PortraitModel(
        backbone,
        load_model(AppearanceReference, folder / REFERENCE, dtype),
        part(ControlNetModel, CONTROL),
        part(CrossView, CROSS_VIEW),
        prior,
        timestep,
    )


def check_safetensors(folder: Path) -> None:
    """Raise InputError if the weights of a part of a model folder are pickled."""
    for part in ("unet", "vae", REFERENCE, CONTROL, CROSS_VIEW, NOISE_PRIOR):
        if (folder / part).is_dir():
            for path in weight_files(folder / part):
                if path.suffix != ".safetensors":
                    raise InputError(f"{path} is not safetensors, and use_safetensors=True refuses it")


def check_prior(prior: NoisePrior, backbone: Backbone, where: str) -> None:
    """Raises InputError unless S makes images of the size that F is for."""
    check_prior_size(prior.config.image_size, backbone.unet.config.sample_size * backbone.downsampling, where)


def check_prior_size(made: int, wanted: int, where: str) -> None:
    """Raise InputError unless the side of S's images, in pixels, is the side of F's."""
    if made != wanted:
        raise InputError(
            f"{where}: S makes images of {made} pixels, and F takes {wanted}: give an S "
            f"trained at image_size {wanted}, or none"
        )


def _check_cards(folder: Path, backbone: str) -> ReferenceTimestep:
    """What F_ref sees, by the cards of the parts; the current timestep where no part has one, as released."""
    lineage = Lineage(backbone)
    for name, (stage, _) in STAGES.items():
        place = folder / name
        if (place / CARD).is_file():
            card = StageCard.parse(read_json(place / CARD), str(place))
            card.check(stage, backbone, str(place))
            lineage.add(card, read_weights(place), str(place))
    return lineage.reference_timestep or "current"


def save_portrait_model(model: PortraitModel, path: str, dtype: torch.dtype | None = None) -> None:
    """The folder that `load_portrait_model` reads, in `dtype` or as it is.

    Raises InputError if `path` exists; nothing half-written is left under that name.
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
    if model.noise_prior is not None:
        save_model(model.noise_prior, folder / NOISE_PRIOR, dtype)
    write_cards(folder, model.reference_timestep)


def write_cards(folder: Path, reference_timestep: ReferenceTimestep) -> None:
    """Beside each part in a model's folder, the card by which stages and `load_portrait_model` know it: the
    parts of one folder were trained with each other."""
    lineage = Lineage(fingerprints.of_tensors(read_weights(folder / "unet")))
    for name, (stage, part) in STAGES.items():
        place = folder / name
        if place.is_dir():
            card = StageCard(stage, part, lineage.backbone, lineage.settings(reference_timestep))
            write_card(card, place)
            lineage.add(card, read_weights(place), str(place))
    if (folder / NOISE_PRIOR).is_dir():
        config = read_json(folder / NOISE_PRIOR / "config.json")
        card = StageCard(*PRIOR_STAGE, "", {"perceptual": config.get("perceptual")})
        write_card(card, folder / NOISE_PRIOR)
