"""Saving and loading of a stage's trained part, as a folder or from a checkpoint, checked against its
backbone."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from core.errors import InputError
from core.files import whole_folder
from core.model_folders import WEIGHTS, save_model
from core.shipped import find_shipped
from core.tensors import DAMAGE, check_finite, load_strict, read_json, read_pickle, read_tensors
from lightning_modules.networks.provenance import CARD, StageCard, write_card

IN_CHECKPOINT = "diffportrait3d"
# Entries of a checkpoint that Lightning needs to resume a run.
PROGRESS = {"epoch_progress", "epoch_loop.batch_progress", "epoch_loop.automatic_optimization.optim_progress"}


def save_part(module: ModelMixin, card: StageCard, folder: Path, dtype: torch.dtype | None) -> None:
    """Write, atomically, the folder that `load_part` reads. Raises InputError if it exists."""
    with whole_folder(folder) as partial:
        save_model(module, partial, dtype)
        write_card(card, partial)


def load_part(module: ModelMixin, path: str, stage: str, backbone: str) -> StageCard:
    """Load a stage's trained part into `module` from its folder or its checkpoint (the averaged weights if
    there are any).

    Raises InputError if `path` is neither, belongs to another stage or backbone, or does not fit.
    """
    source = find_shipped(path)
    if source.is_dir():
        card = StageCard.parse(read_json(source / CARD), str(source))
        tensors = read_tensors(source / f"{WEIGHTS}.safetensors")
    else:
        card, tensors = read_checkpoint(source)
    card.check(stage, backbone, path)
    like = next(module.parameters())
    load_strict(module, {name: x.to(like.dtype) for name, x in tensors.items()}, path)
    module.to(like.device)
    return card


def read_checkpoint(path: Path) -> tuple[StageCard, dict[str, Tensor]]:
    """The card and the trained part's tensors (averaged if available) in a stage's checkpoint."""
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint or folder")
    checkpoint = _read_checked(path)
    if not isinstance(checkpoint, dict) or IN_CHECKPOINT not in checkpoint:
        raise InputError(f"{path}: not a checkpoint of one of this project's stages")
    card = StageCard.parse(checkpoint[IN_CHECKPOINT], str(path))
    tensors = _trained_weights(checkpoint, path)
    prefix = f"{card.part}."
    return card, {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def check_checkpoint(path: Path) -> None:
    """Check a checkpoint before a run is resumed from it, without executing code.

    Raises InputError if it is missing, damaged, of another type, or has NaN or infinite weights.
    """
    checkpoint = _read_checked(path)
    progress = checkpoint.get("loops") if isinstance(checkpoint, dict) else None
    progress = progress.get("fit_loop") if isinstance(progress, dict) else None
    if not isinstance(progress, dict) or not progress.keys() >= PROGRESS:
        raise InputError(f"{path}: not a checkpoint that a run can be resumed from")
    check_finite(_weights(checkpoint, "state_dict", path), str(path))


def _read_checked(path: Path) -> Any:
    """The content of a checkpoint of this project. Raises InputError if the checksum of a record in it
    differs: torch stores checksums but does not verify them."""
    checkpoint = read_pickle(path)
    damaged = None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
    except DAMAGE as error:  # torch reads some archives that zipfile does not
        raise InputError(f"{path} is damaged: {error}") from error
    if damaged is not None:
        raise InputError(f"{path} is damaged: the checksum of {damaged} in it differs")
    return checkpoint


def _trained_weights(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint, or the last ones if there is no average. Raises InputError if
    they are of another type."""
    callbacks = checkpoint.get("callbacks", {})
    states = callbacks if isinstance(callbacks, dict) else {}
    averages = [state for name, state in states.items() if str(name).startswith("WeightAverage")]
    holder, key = (averages[0], "average") if averages else (checkpoint, "state_dict")
    return _weights(holder, key, path)


def _weights(holder: Any, key: str, path: Path) -> dict[str, Tensor]:
    """The mapping of tensors at `key` of a part of a checkpoint. Raises InputError if there is none."""
    tensors = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(x, Tensor) for name, x in tensors.items()
    ):
        raise InputError(f"{path}: damaged: its {key} is no mapping of names to tensors")
    return tensors
