"""Assemble a model folder from a backbone and the parts exported by the stages.

`python -m lightning_modules.assemble --backbone checkpoints/mini --appearance runs/stage1/version_0/export
--control runs/stage2/version_0/export --views runs/stage3/version_0/export --out checkpoints/mine`
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.modeling_utils import ModelMixin
from jsonargparse import ArgumentParser

from core import fingerprints
from core.errors import InputError, one_line
from core.model_folders import load_model
from core.tensors import read_json
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.portrait import (
    CONTROL,
    CROSS_VIEW,
    PRIOR_STAGE,
    REFERENCE,
    STAGES,
    PortraitModel,
    check_prior,
)
from lightning_modules.networks.pretrained import load_backbone
from lightning_modules.networks.provenance import CARD, Lineage, StageCard
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.trained_part import ExportDtype


def assemble(
    backbone: str,
    appearance: str,
    out: str,
    control: str | None = None,
    views: str | None = None,
    prior: str | None = None,
    dtype: ExportDtype = "float16",
) -> None:
    """Write the model folder. Raises InputError if a part is of another stage or backbone or was not trained
    with the others, if S has another image size, or if `out` exists.

    Args:
        backbone: a Stable Diffusion 1.5 folder of any width, a single file, or a hub id.
        appearance: F_ref, the exported folder of stage 1.
        out: the model folder to write.
        control: F_cam, the exported folder of stage 2.
        views: V, the exported folder of stage 3.
        prior: S, the exported folder of the noise prior.
        dtype: data type of the stored weights.
    """
    if Path(out).exists():
        raise InputError(f"{out} exists already: remove it or choose another folder")
    base = load_backbone(backbone)
    lineage = Lineage(fingerprints.of_tensors(base.unet.state_dict()))

    def part(cls: type[ModelMixin], path: str | None, name: str) -> Any:
        if path is None:
            return None
        card = _card(path, STAGES[name][0], lineage.backbone)
        loaded = load_model(cls, Path(path))
        lineage.add(card, loaded.state_dict(), path)
        return loaded

    reference = part(AppearanceReference, appearance, REFERENCE)
    parts = part(ControlNetModel, control, CONTROL), part(CrossView, views, CROSS_VIEW)
    loaded_prior = None
    if prior is not None:
        _card(prior, PRIOR_STAGE[0], "")
        loaded_prior = load_model(NoisePrior, Path(prior))
        check_prior(loaded_prior, base, prior)
    timestep = lineage.reference_timestep
    assert timestep is not None  # always in F_ref's card
    model = PortraitModel(base, reference, *parts, loaded_prior, timestep)
    DiffPortrait3DPipeline.of(model).save_pretrained(out, getattr(torch, dtype))
    print(out)


def _card(path: str, stage: str, backbone: str) -> StageCard:
    card = StageCard.parse(read_json(Path(path) / CARD), path)
    card.check(stage, backbone, path)
    return card


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Invalid input ends in one line."""
    parser = ArgumentParser(prog="diffportrait3d assemble", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(assemble)
    settings = parser.parse_args(arguments)
    with one_line():
        assemble(**settings.as_dict())


if __name__ == "__main__":
    main()
