"""`python -m lightning_modules.export_released DIR --out model.th`: convert a model folder to the authors'
layout."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError, one_line
from core.files import whole_file
from core.model_folders import empty_model, read_weights
from core.tensors import compare, read_json, read_tensors
from lightning_modules.import_released import HOLDINGS, UNREAD
from lightning_modules.networks import portrait
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.pretrained import check_unet
from lightning_modules.released import names
from lightning_modules.released.checkpoint import (
    TEXT_ENCODER,
    Layout,
    Part,
    layout_of,
    released_part,
    text_part,
)
from lightning_modules.released.structure import CROSS_VIEW_FIXED, UNET_FIXED

NETWORKS = ("unet", portrait.REFERENCE, portrait.CONTROL, portrait.CROSS_VIEW)


def export_released(folder: str, out: str | None = None, parts: list[str] | None = None) -> None:
    """Write a model folder as a checkpoint that the authors' code loads.

    Args:
        folder: A model folder, of import_released or of training.
        out: The file to write, as safetensors if it has that suffix, otherwise as a PyTorch state dict; it
            must not exist yet.
        parts: Parts to include besides the four networks: vae, text_encoder. By default those that the folder
            was imported with; none for a model trained here.
    """
    if out is None:
        raise InputError("--out is missing: give the file to write")
    path = Path(out)
    if path.exists():
        raise InputError(f"{path} exists already: remove it or choose another name")
    write_state_dict(released_tensors(Path(folder), parts), path)
    print(f"{path}: written")


def released_tensors(folder: Path, extra: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The released state dict of a model folder; `extra` as `parts` of `export_released`.

    Raises InputError if the folder lacks one of the networks, or has one that the authors' code does not
    support.
    """
    layout = folder_layout(folder, _holdings(folder) if extra is None else extra)
    tensors: dict[str, Tensor] = {}
    for part in tqdm(layout.parts, desc="collecting", unit="part"):
        ours = _read_part(folder, part)
        compare(part.own_shapes, ours, str(folder / part.folder))
        tensors |= part.to_released(ours)
    unread = read_tensors(folder / UNREAD) if (folder / UNREAD).is_file() else {}
    return tensors | unread | placeholders(layout, tensors, unread)


def folder_layout(folder: Path, extra: Sequence[str]) -> Layout:
    """The released layout for the networks in a model folder, from their configs."""
    unknown = set(extra) - {*NETWORKS, "vae", TEXT_ENCODER}
    if unknown:
        raise InputError(f"no part is called {', '.join(sorted(unknown))}: choose from vae, text_encoder")
    classes = {
        "unet": UNet2DConditionModel,
        portrait.CONTROL: ControlNetModel,
        portrait.CROSS_VIEW: CrossView,
    }
    models = {}
    for name, cls in classes.items():
        if not (folder / name).is_dir():
            raise InputError(
                f"{folder} has no {name}/, and the authors' code needs all of {', '.join(NETWORKS)}"
            )
        models[name] = empty_model(cls, read_json(folder / name / "config.json"), folder / name)
    check_unet(models["unet"].config, folder)
    check_released(models["unet"], models[portrait.CONTROL], models[portrait.CROSS_VIEW], folder)
    layout = layout_of(models["unet"], models[portrait.CONTROL], models[portrait.CROSS_VIEW])
    layout.unread.update(absent_from(models[portrait.CROSS_VIEW]))
    if "vae" in extra:
        vae = empty_model(AutoencoderKL, read_json(folder / "vae" / "config.json"), folder / "vae")
        layout.parts.append(released_part("vae", vae, names.vae_names(vae)))
    if TEXT_ENCODER in extra:
        layout.parts.append(text_part(read_json(folder / TEXT_ENCODER / "config.json")))
    return layout


def check_released(
    unet: UNet2DConditionModel, control: ControlNetModel, cross_view: CrossView, folder: Path
) -> None:
    """Raise InputError if the networks differ from settings that are fixed in the authors' code."""
    for model, fixed in ((unet, UNET_FIXED), (control, UNET_FIXED), (cross_view, CROSS_VIEW_FIXED)):
        for name, value in fixed.items():
            if model.config.get(name, value) != value:
                raise InputError(
                    f"{folder}: the authors' code has {name}={value!r}, this model's {type(model).__name__} "
                    f"{model.config[name]!r}"
                )
    if not isinstance(unet.config.attention_head_dim, int):
        raise InputError(
            f"{folder}: the authors' code has the same number of heads in every layer, this model "
            f"{unet.config.attention_head_dim}"
        )
    if len(control.config.conditioning_embedding_out_channels) != 4:
        raise InputError(
            f"{folder}: the authors' hint encoder halves the resolution three times, this model's does not"
        )
    if cross_view.config.middle == "always":
        raise InputError(
            f"{folder}: V's middle module runs in every pass here, and in the authors' code in the "
            "unconditional pass only: train V with middle=unconditional or middle=never"
        )


def absent_from(cross_view: CrossView) -> dict[str, tuple[int, ...]]:
    """Tensors of the released V that this one does not have: the middle module, the positional encoding."""
    config = dict(cross_view.config) | {
        "middle": "unconditional",
        "positions": cross_view.config.positions or 32,
    }
    with torch.device("meta"):
        whole = CrossView.from_config(config)
    released = released_part(portrait.CROSS_VIEW, whole, names.cross_view_names(whole)).shapes
    own = set(names.cross_view_names(cross_view).values())
    return {name: shape for name, shape in released.items() if name not in own}


def placeholders(layout: Layout, tensors: dict[str, Tensor], unread: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that the authors' code requires and a model trained here lacks, by released name.

    Layers that F_ref omits are copies of F's. All others are zero, and have no effect: F_ref's unused hint
    encoder, an untrained middle module of V, and a positional encoding that V does not use.
    """
    made: dict[str, Tensor] = {}
    for name, shape in layout.unread.items():
        if name not in unread:
            made[name] = tensors.get(name.replace(names.REFERENCE, names.UNET, 1), torch.zeros(shape)).clone()
    return made


def write_state_dict(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a state dict atomically: as safetensors if `path` has that suffix, otherwise as a PyTorch zip
    file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        if path.suffix == ".safetensors":
            save_file({name: x.contiguous() for name, x in tensors.items()}, partial)
        else:
            torch.save(tensors, partial)


def _holdings(folder: Path) -> list[str]:
    return read_json(folder / HOLDINGS)["parts"] if (folder / HOLDINGS).is_file() else []


def _read_part(folder: Path, part: Part) -> dict[str, Tensor]:
    if part.folder == TEXT_ENCODER:
        return read_tensors(folder / TEXT_ENCODER / "model.safetensors")
    return read_weights(folder / part.folder)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command. Invalid input ends in one line."""
    parser = ArgumentParser(
        prog="diffportrait3d export-released",
        description="Write a model folder as a checkpoint that the authors' code loads.",
    )
    parser.add_function_arguments(export_released, as_positional=True)
    settings = parser.parse_args(args).as_dict()
    with one_line():
        export_released(**settings)


if __name__ == "__main__":
    main()
