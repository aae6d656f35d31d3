"""What a trained part says of itself: which stage made it, on which backbone, and what using it takes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from shards.errors import InputError

CARD = "stage.json"
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
def fingerprint(unet: Mapping[str, Tensor]) -> str:
    """Twelve characters that tell F's weights, a state dictionary, from others: the same in half and in full
    precision."""
    digest = hashlib.sha256()
    for name, value in sorted(unet.items()):
        sampled = value.flatten()[: SAMPLED_VALUES * 64 : 64].half().cpu()
        digest.update(f"{name}{tuple(value.shape)}".encode() + sampled.numpy().tobytes())
    return digest.hexdigest()[:12]
