"""Model folders: the backbone and the trained networks of the paper."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.modeling_utils import ModelMixin

from core import fingerprints
from core.errors import InputError
from core.files import whole_folder
from core.model_folders import load_model, read_weights, save_model, weight_files
from core.shipped import find_shipped
from core.tensors import read_json
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.pretrained import Backbone, load_backbone, write_backbone
from lightning_modules.networks.preview import PreviewDecoder
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
PREVIEW_DECODER = "preview_decoder"  # no part of the paper's: a small decoder of F's latents
# The stage that trains a part, and the part's name in it, in the order of the stages.
STAGES = {
    REFERENCE: ("appearance", "reference"),
    CONTROL: ("view_control", "denoiser.control"),
    CROSS_VIEW: ("view_consistency", "denoiser.cross_view"),
}
PRIOR_STAGE = ("noise_prior", "prior")  # independent of the backbone, as S generates images


@dataclass(frozen=True)
class PortraitModel:
    """F and its VAE (3.1), F_ref (3.2), and optionally F_cam (3.3), V and S (3.4), and a small decoder.

    `reference_timestep` is the timestep of F_ref: "zero", with which features are computed once per portrait,
    or "current", as in the released model.
    """

    backbone: Backbone
    reference: AppearanceReference
    control: ControlNetModel | None = None
    cross_view: CrossView | None = None
    noise_prior: NoisePrior | None = None
    reference_timestep: ReferenceTimestep = "current"
    preview_decoder: PreviewDecoder | None = None

    def denoiser(self) -> Denoiser:
        """F with the available parts attached."""
        return Denoiser(self.backbone.unet, self.backbone.empty_prompt, self.control, self.cross_view)


def load_portrait_model(path: str, dtype: torch.dtype = torch.float32) -> PortraitModel:
    """Load a folder of `save_portrait_model` or `import_released`, in `dtype` and evaluation mode.

    Raises InputError if there is no F_ref, if parts were not trained together, if S has another image size,
    or if files are damaged.
    """
    folder = find_shipped(path)
    check_model(folder)
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
        part(PreviewDecoder, PREVIEW_DECODER),
    )


def check_model(folder: Path) -> None:
    """Raise InputError unless a folder is that of a whole model, and not only of F or of a part."""
    if not (folder / REFERENCE).is_dir():
        raise InputError(
            f"{folder} has no {REFERENCE}/: give a folder of import_released, assemble or training"
        )


def check_safetensors(folder: Path) -> None:
    """Raise InputError if the weights of a part of a model folder are pickled."""
    for part in ("unet", "vae", REFERENCE, CONTROL, CROSS_VIEW, NOISE_PRIOR, PREVIEW_DECODER):
        if (folder / part).is_dir():
            for path in weight_files(folder / part):
                if path.suffix != ".safetensors":
                    raise InputError(f"{path} is not safetensors, which use_safetensors=True requires")


def check_prior(prior: NoisePrior, backbone: Backbone, where: str) -> None:
    """Raise InputError unless S and F have the same image size."""
    check_prior_size(prior.config.image_size, backbone.unet.config.sample_size * backbone.downsampling, where)


def check_prior_size(made: int, wanted: int, where: str) -> None:
    """Raise InputError unless the side of S's images, in pixels, is the side of F's."""
    if made != wanted:
        raise InputError(
            f"{where}: S generates images of {made} pixels, but F needs {wanted}: give an S "
            f"trained at image_size {wanted}, or none"
        )


def _check_cards(folder: Path, backbone: str) -> ReferenceTimestep:
    """Check the parts' cards and return F_ref's timestep; without cards, "current", as in the released
    model."""
    lineage = Lineage(backbone)
    for name, (stage, _) in STAGES.items():
        place = folder / name
        if (place / CARD).is_file():
            card = StageCard.parse(read_json(place / CARD), str(place))
            card.check(stage, backbone, str(place))
            lineage.add(card, read_weights(place), str(place))
    return lineage.reference_timestep or "current"


def save_portrait_model(model: PortraitModel, path: str, dtype: torch.dtype | None = None) -> None:
    """Write, atomically, the folder that `load_portrait_model` reads, in `dtype` or as stored.

    Raises InputError if `path` exists.
    """
    with whole_folder(Path(path)) as folder:
        write_portrait_model(model, folder, dtype)


def write_portrait_model(model: PortraitModel, folder: Path, dtype: torch.dtype | None = None) -> None:
    """As `save_portrait_model`, into an existing folder; its other files are kept."""
    write_backbone(model.backbone, folder, dtype)
    parts = {
        REFERENCE: model.reference,
        CONTROL: model.control,
        CROSS_VIEW: model.cross_view,
        NOISE_PRIOR: model.noise_prior,
        PREVIEW_DECODER: model.preview_decoder,
    }
    for name, part in parts.items():
        if part is not None:
            save_model(part, folder / name, dtype)
    write_cards(folder, model.reference_timestep)


def write_cards(folder: Path, reference_timestep: ReferenceTimestep) -> None:
    """Write the card of each part in a model folder, for stages and `load_portrait_model`; it records that
    the parts were trained together."""
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
