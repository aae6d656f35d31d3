"""`python -m lightning_modules.import_released model.th --out DIR`: convert the authors' checkpoint to a
model folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError, one_line
from core.files import whole_folder
from core.model_folders import WEIGHTS, save_model
from lightning_modules.networks.portrait import write_cards
from lightning_modules.networks.pretrained import (
    GivenBackbone,
    check_vae,
    encode_empty_prompt,
    find_folder,
    write_empty_prompt,
)
from lightning_modules.networks.text import copy_text_encoder
from lightning_modules.released.checkpoint import (
    TEXT_ENCODER,
    Layout,
    Part,
    part_sizes,
    read_checkpoint,
    released_layout,
    shapes_of,
)
from lightning_modules.released.structure import text_config

Precision = Literal["float32", "float16", "bfloat16"]
UNREAD = "released_unread.safetensors"
HOLDINGS = "released.json"


def import_released(
    checkpoint: str,
    out: str | None = None,
    backbone: str | None = None,
    dtype: Precision | None = None,
    heads: int = 8,
    view_heads: int = 8,
) -> None:
    """Convert a released DiffPortrait3D checkpoint into a model folder.

    Args:
        checkpoint: The released file: a PyTorch pickle (.th, .ckpt, …) or safetensors.
        out: The model folder to write; it must not exist yet.
        backbone: A Stable Diffusion 1.5 folder, single file or hub id, for the VAE and the empty prompt if
            the file has none.
        dtype: The precision to store weights in; by default the file's.
        heads: Attention heads of each layer of F, F_ref and F_cam, which no tensor's shape determines; 8 in
            Stable Diffusion 1.5.
        view_heads: Attention heads of V; 8 in the released model, and by default in models trained here.
    """
    tensors = read_checkpoint(Path(checkpoint))
    shapes = shapes_of(tensors)
    layout = released_layout(shapes, heads, view_heads)
    faults = layout.faults(shapes)
    if faults:
        raise InputError(f"{checkpoint}: {faults}")
    if out is None:
        raise InputError("--out is missing: give the folder to write (or --inspect to only look)")
    check_schedule(tensors, checkpoint)
    precision = getattr(torch, dtype) if dtype else None
    with whole_folder(Path(out)) as folder:
        complete_backbone(layout, tensors, folder, backbone, precision)
        for part in tqdm(layout.parts, desc="converting", unit="part"):
            if part.folder != TEXT_ENCODER:
                write_part(part, tensors, folder, precision)
        write_cards(folder, "current")
        unread = {name: tensors[name].contiguous() for name in layout.unread_in(shapes)}
        save_file(unread, folder / UNREAD)
        holdings = {"from": Path(checkpoint).name, "parts": [part.folder for part in layout.parts]}
        (folder / HOLDINGS).write_text(json.dumps(holdings, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: {', '.join(part.folder for part in layout.parts)}")
    print(f"{len(unread)} tensors that no network uses are kept in {UNREAD} for export_released:")
    print("\n".join(f"  {name}" for name in unread))


def report(tensors: dict[str, Tensor], heads: int, view_heads: int) -> str:
    """The contents of a checkpoint as Markdown: its parts, unused tensors, and tensors that do not fit."""
    lines = ["| part | tensors | parameters | dtype |", "|---|---:|---:|---|"]
    lines += [f"| {name} | {n:,} | {size:,} | {dtype} |" for name, n, size, dtype in part_sizes(tensors)]
    shapes = shapes_of(tensors)
    try:
        layout = released_layout(shapes, heads, view_heads)
    except InputError as error:
        return "\n".join([*lines, "", f"Not a released DiffPortrait3D: {error}"])
    unet = layout.part("unet").model.config
    cross_view = layout.part("cross_view").model.config
    unread = layout.unread_in(shapes)
    return "\n".join(
        [
            *lines,
            "",
            f"F: widths {list(unet.block_out_channels)}, {unet.layers_per_block} residual blocks per level, "
            f"prompt of {unet.cross_attention_dim} channels, {heads} heads (given, not read)",
            f"V: {len(cross_view.down_channels)} modules in the encoder, {sum(cross_view.up_modules)} in the "
            f"decoder, middle {cross_view.middle}; {cross_view.positions} positions encoded, "
            f"{view_heads} heads (given, not read)",
            f"Unused: {len(unread)} tensors",
            *(f"  {name}" for name in unread),
            f"Does not fit: {layout.faults(shapes) or 'nothing'}",
        ]
    )


def write_part(part: Part, tensors: dict[str, Tensor], folder: Path, dtype: torch.dtype | None) -> None:
    """Write one part's folder: its config, and its tensors in `dtype` or as stored."""
    place = folder / part.folder
    place.mkdir()
    ours = {name: x.to(dtype or x.dtype).contiguous() for name, x in part.to_ours(tensors).items()}
    if part.model is not None:
        part.model.save_config(place)
        save_file(ours, place / f"{WEIGHTS}.safetensors", metadata={"format": "pt"})
        return
    config = text_config(shapes_of(part.to_released(ours)))
    (place / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(ours, place / "model.safetensors", metadata={"format": "pt"})


def complete_backbone(
    layout: Layout,
    tensors: dict[str, Tensor],
    folder: Path,
    backbone: str | None,
    dtype: torch.dtype | None,
) -> None:
    """Write VAE, schedule and empty prompt, from `backbone` if they are not in the file, before the large
    parts.

    A text encoder in the file is written together with its embedding of "". Raises InputError if neither the
    file nor `backbone` has them.
    """
    have = {part.folder for part in layout.parts}
    lacking = [name for name in ("vae", TEXT_ENCODER) if name not in have]
    if lacking and backbone is None:
        raise InputError(
            f"the file holds no {' and no '.join(lacking)}: name a Stable Diffusion 1.5 folder, "
            "single file or hub id with --backbone"
        )
    given = None if backbone is None else GivenBackbone(find_folder(backbone))
    schedule = released_schedule() if given is None else given.schedule()
    schedule.save_config(folder / "scheduler")
    if TEXT_ENCODER in have:
        write_part(layout.part(TEXT_ENCODER), tensors, folder, dtype)
        write_empty_prompt(encode_empty_prompt(folder), folder)
    else:
        assert given is not None  # checked above
        channels = layout.part("unet").model.config.cross_attention_dim
        write_empty_prompt(given.empty_prompt(channels), folder)
    if given is not None and given.single is None:
        copy_text_encoder(given.place, folder)
    if "vae" not in have:
        assert given is not None  # checked above
        vae = given.vae()
        check_vae(vae, layout.part("unet").model.config.in_channels, given.place)
        save_model(vae, folder / "vae", dtype)


def released_schedule() -> ConfigMixin:
    """Stable Diffusion 1.5's noise schedule, under which the released networks were trained."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )


def check_schedule(tensors: dict[str, Tensor], where: str) -> None:
    """Raise InputError if a checkpoint has a noise schedule other than Stable Diffusion 1.5's."""
    betas, ours = tensors.get("betas"), released_schedule().betas
    if betas is not None and not (
        betas.shape == ours.shape and torch.allclose(betas.float(), ours, rtol=1e-3)
    ):
        raise InputError(f"{where}: its betas are not Stable Diffusion 1.5's noise schedule")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command. Invalid input ends in one line."""
    parser = ArgumentParser(
        prog="diffportrait3d import-released",
        description="Convert a released DiffPortrait3D checkpoint into a model folder.",
    )
    parser.add_function_arguments(import_released, as_positional=True)
    parser.add_argument("--inspect", action="store_true", help="Only print what the file contains.")
    settings = parser.parse_args(args).as_dict()
    with one_line():
        if settings.pop("inspect"):
            tensors = read_checkpoint(Path(settings["checkpoint"]))
            print(report(tensors, settings["heads"], settings["view_heads"]))
        else:
            import_released(**settings)


if __name__ == "__main__":
    main()
