"""A model folder out of a backbone and the parts that stages have exported, for `synthesize` and the rest.

`python -m lightning_modules.assemble --backbone checkpoints/mini --appearance runs/stage1/version_0/export
--control runs/stage2/version_0/export --views runs/stage3/version_0/export --out checkpoints/mine`
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.modeling_utils import ModelMixin
from jsonargparse import ArgumentParser

from lightning_modules.networks.cards import CARD, StageCard, fingerprint
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.portrait import PortraitModel, ReferenceTimestep
from lightning_modules.networks.pretrained import load_backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.weights import load_model, read_json
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from shards.errors import InputError, one_line

Dtype = Literal["float16", "float32"]


def assemble(
    backbone: str,
    appearance: str,
    out: str,
    control: str | None = None,
    views: str | None = None,
    prior: str | None = None,
    dtype: Dtype = "float16",
) -> None:
    """Writes the folder. Raises InputError where a part is of another stage, backbone or F_ref timestep, or
    where `out` exists.

    Args:
        backbone: a Stable Diffusion 1.5 folder of any width, or a hub id.
        appearance: F_ref, the folder that stage 1 exported.
        out: the model folder to be written.
        control: F_cam, the folder that stage 2 exported.
        views: V, the folder that stage 3 exported.
        prior: S, the folder that the noise prior's training exported.
        dtype: of the weights written.
    """
    base = load_backbone(backbone)
    known = fingerprint(base.unet.state_dict())
    timesteps: set[str] = set()

    def part(cls: type[ModelMixin], path: str | None, stage: str, of: str = known) -> ModelMixin | None:
        if path is None:
            return None
        card = StageCard.parse(read_json(Path(path) / CARD), path)
        card.check(stage, of, path)
        timesteps.update({card.settings["reference_timestep"]} if of else ())
        return load_model(cls, Path(path))

    reference = part(AppearanceReference, appearance, "appearance")
    parts = (
        part(ControlNetModel, control, "view_control"),
        part(CrossView, views, "view_consistency"),
        part(NoisePrior, prior, "noise_prior", ""),
    )
    if len(timesteps) > 1 or not timesteps <= set(get_args(ReferenceTimestep)):
        raise InputError(f"parts trained with F_ref at the timesteps {sorted(timesteps)}: one is wanted")
    model = PortraitModel(base, reference, *parts, timesteps.pop())
    DiffPortrait3DPipeline.of(model).save_pretrained(out, getattr(torch, dtype))
    print(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A user's mistake ends in one line."""
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(assemble)
    settings = parser.parse_args(arguments)
    with one_line():
        assemble(**settings.as_dict())


if __name__ == "__main__":
    main()
