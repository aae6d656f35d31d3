"""A whole model in one folder: the backbone, and beside it the paper's networks that have been trained."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel

from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.pretrained import Backbone, load_backbone, write_backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.weights import load_model, save_model, whole_folder
from shards.errors import InputError

REFERENCE, CONTROL, CROSS_VIEW = "appearance_reference", "view_control", "cross_view"


@dataclass(frozen=True)
class PortraitModel:
    """F and its VAE (3.1), F_ref (3.2), and F_cam (3.3) and V (3.4) from the stage on that trains them."""

    backbone: Backbone
    reference: AppearanceReference
    control: ControlNetModel | None = None
    cross_view: CrossView | None = None

    def denoiser(self) -> Denoiser:
        """F with all that is there attached."""
        return Denoiser(self.backbone.unet, self.backbone.empty_prompt, self.control, self.cross_view)


def load_portrait_model(path: str, dtype: torch.dtype = torch.float32) -> PortraitModel:
    """The model in a folder of `save_portrait_model` or `import_released`, in `dtype` and `eval`.

    Raises InputError on a folder without F_ref, and on damaged files.
    """
    folder = Path(path)
    if not (folder / REFERENCE).is_dir():
        raise InputError(
            f"{folder} has no {REFERENCE}/: give a folder that import_released or training has made"
        )
    backbone = load_backbone(path, dtype)
    reference = load_model(AppearanceReference, folder / REFERENCE, dtype)
    control = load_model(ControlNetModel, folder / CONTROL, dtype) if (folder / CONTROL).is_dir() else None
    cross_view = load_model(CrossView, folder / CROSS_VIEW, dtype) if (folder / CROSS_VIEW).is_dir() else None
    return PortraitModel(backbone, reference, control, cross_view)


def save_portrait_model(model: PortraitModel, path: str, dtype: torch.dtype | None = None) -> None:
    """The folder that `load_portrait_model` reads, in `dtype` or as it is.

    Raises InputError where `path` exists; nothing half-written is left under that name.
    """
    with whole_folder(Path(path)) as folder:
        write_backbone(model.backbone, folder, dtype)
        parts = {REFERENCE: model.reference, CONTROL: model.control, CROSS_VIEW: model.cross_view}
        for name, part in parts.items():
            if part is not None:
                save_model(part, folder / name, dtype)
