"""What a stage hands on: its trained part, as a folder or out of a checkpoint, checked against its
backbone."""

import hashlib
import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from lightning_modules.networks.weights import (
    WEIGHTS,
    load_strict,
    read_json,
    read_tensors,
    save_model,
    whole_folder,
)
from shards.errors import InputError

CARD = "stage.json"
IN_CHECKPOINT = "diffportrait3d"
FORMAT = 1
SAMPLED_VALUES = 8


@dataclass(frozen=True)
class StageCard:
    """Which stage made a part (`stage`, the class of the part in `part`), on which backbone, with which
    settings.

    `settings` are what using the part takes beside its weights, e.g. the timestep that F_ref sees.
    """

    stage: str
    part: str
    backbone: str
    settings: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def parse(cls, values: dict[str, Any], where: str) -> Self:
        """A card from JSON values. Raises InputError where it is none, or of a newer format."""
        if values.get("format") != FORMAT:
            raise InputError(
                f"{where}: format {values.get('format')!r} of a trained part; this code reads {FORMAT}"
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"{where}: not the card of a trained part ({error})") from error

    def check(self, stage: str, backbone: str, where: str) -> None:
        """Raises InputError unless this is of `stage`, and of the backbone with this fingerprint."""
        if self.stage != stage:
            raise InputError(f"{where} is of the stage {self.stage}; the stage {stage} is wanted here")
        if self.backbone != backbone:
            raise InputError(
                f"{where} was trained on another backbone ({self.backbone}, not {backbone}): "
                "give the backbone it belongs to, or train it on this one"
            )


@torch.no_grad()
def fingerprint(unet: nn.Module) -> str:
    """Twelve characters that tell F's weights from others, the same in half and in full precision."""
    digest = hashlib.sha256()
    for name, value in sorted(unet.state_dict().items()):
        sampled = value.flatten()[: SAMPLED_VALUES * 64 : 64].half().cpu()
        digest.update(f"{name}{tuple(value.shape)}".encode() + sampled.numpy().tobytes())
    return digest.hexdigest()[:12]


def save_part(module: ModelMixin, card: StageCard, folder: Path, dtype: torch.dtype | None) -> None:
    """The folder that `load_part` reads, written whole. Raises InputError where it exists."""
    with whole_folder(folder) as partial:
        save_model(module, partial, dtype)
        (partial / CARD).write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")


def load_part(module: ModelMixin, path: str, stage: str, backbone: str) -> StageCard:
    """Put a stage's trained part into `module`: from its folder, or its checkpoint (the average, where it
    has one).

    Raises InputError where `path` is neither, is of another stage or backbone, or does not fit.
    """
    source = Path(path)
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
    """The card and the trained part's tensors, averaged where an average was kept, of a stage's
    checkpoint."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint or folder") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a checkpoint of this project ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(checkpoint, dict) or IN_CHECKPOINT not in checkpoint:
        raise InputError(f"{path}: not a checkpoint of one of this project's stages")
    card = StageCard.parse(checkpoint[IN_CHECKPOINT], str(path))
    states = [s for name, s in checkpoint["callbacks"].items() if name.startswith("WeightAverage")]
    tensors = states[0]["average"] if states else checkpoint["state_dict"]
    prefix = f"{card.part}."
    return card, {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
