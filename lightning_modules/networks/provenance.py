"""Provenance metadata of trained parts, `stage.json` in their folders: the stage that trained a part, the
backbone and the other parts that it was trained with, and settings needed for using it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from torch import Tensor

from core import fingerprints
from core.errors import InputError
from core.files import write_json
from core.schema import STRICT, check_values

CARD = "stage.json"
FORMAT = 1
ReferenceTimestep = Literal["zero", "current"]
# Names of settings.
TIMESTEP, TRAINED_WITH = "reference_timestep", "trained_with"


@dataclass(frozen=True)
class StageCard:
    """The provenance of a trained part.

    Args:
        stage: the stage that trained it
        part: the name of its submodule in that stage
        backbone: the fingerprint of the backbone that it was trained on; "" for S, which needs none
        settings: `reference_timestep`, F_ref's timestep, and `trained_with`, the fingerprints of the parts
            that were frozen while it was trained, by stage
    """

    __pydantic_config__: ClassVar = STRICT

    stage: str
    part: str
    backbone: str
    settings: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Raise InputError for other formats and invalid settings."""
        if self.format != FORMAT:
            raise InputError(f"format {self.format} is not supported; this version reads format {FORMAT}")
        parts = self.settings.get(TRAINED_WITH, {})
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise InputError(f"{TRAINED_WITH} does not name parts by their fingerprints")

    @classmethod
    def parse(cls, values: Any, where: str) -> Self:
        """Parse the JSON values of a card. Raises InputError for invalid values and other formats."""
        return check_values(cls, values, f"{where}: not the card of a trained part")

    @property
    def trained_with(self) -> dict[str, str]:
        """The fingerprints of the parts that this one was trained with, by stage; empty if none were."""
        return self.settings.get(TRAINED_WITH, {})

    def reference_timestep(self, where: str) -> ReferenceTimestep:
        """F_ref's timestep. Raises InputError if the card has none, or an unknown one."""
        timestep: Any = self.settings.get(TIMESTEP)
        if timestep not in get_args(ReferenceTimestep):
            raise InputError(
                f"{where}: its card ({CARD}) has {TIMESTEP} {timestep!r}, not "
                f"{' or '.join(map(repr, get_args(ReferenceTimestep)))}: export the part again"
            )
        return timestep

    def check(self, stage: str, backbone: str, where: str) -> None:
        """Raise InputError unless the part belongs to `stage` and to the backbone with this fingerprint."""
        if self.stage != stage:
            raise InputError(f"{where} is of the stage {self.stage}; a part of {stage} is needed here")
        if self.backbone != backbone:
            raise InputError(
                f"{where} was trained on another backbone ({self.backbone}, not {backbone}): "
                "give the backbone it belongs to, or train it on this one"
            )

    def check_parts(self, parts: Mapping[str, str], where: str) -> None:
        """Raise InputError if the part was trained with other parts than `parts`, fingerprints by stage. Only
        stages in both are compared."""
        for stage, known in self.trained_with.items():
            if parts.get(stage, known) != known:
                raise InputError(
                    f"{where} was trained with another part of the stage {stage} ({known}, not "
                    f"{parts[stage]}): give the parts of one run of the stages, or train it with this one"
                )

    def check_same_run(self, now: "StageCard", where: str) -> None:
        """Raise InputError unless a run whose part has the card `now` can be resumed from this part."""
        self.check(now.stage, now.backbone, where)
        self.check_parts(now.trained_with, where)
        was, wanted = self.settings.get(TIMESTEP), now.settings.get(TIMESTEP)
        if was != wanted:
            raise InputError(f"{where} was trained with F_ref at the {was} timestep, this run has {wanted}")


@dataclass
class Lineage:
    """The parts of one model, added in the order of their stages and checked against each other.

    Args:
        backbone: the backbone's fingerprint
        parts: the parts' fingerprints by stage
        reference_timestep: F_ref's timestep; None until a part is added
    """

    backbone: str
    parts: dict[str, str] = field(default_factory=dict)
    reference_timestep: ReferenceTimestep | None = None

    def add(self, card: StageCard, weights: Mapping[str, Tensor], where: str) -> None:
        """Add a part, whose state dict is `weights`.

        Raises InputError if it was trained on another backbone, with another timestep of F_ref, or with other
        parts than those added before.
        """
        card.check(card.stage, self.backbone, where)
        timestep = card.reference_timestep(where)
        if self.reference_timestep not in (None, timestep):
            raise InputError(
                f"{where} was trained with F_ref at the {timestep} timestep, the other parts at the "
                f"{self.reference_timestep}: give the parts of one run of the stages"
            )
        card.check_parts(self.parts, where)
        self.reference_timestep = timestep
        self.parts[card.stage] = fingerprints.of_tensors(weights)

    def settings(self, reference_timestep: ReferenceTimestep) -> dict[str, Any]:
        """The card's `settings` for a part that is trained with these parts."""
        beside = {TRAINED_WITH: dict(self.parts)} if self.parts else {}
        return {TIMESTEP: reference_timestep, **beside}


def write_card(card: StageCard, folder: Path) -> None:
    """Write `stage.json` into the folder of a part."""
    write_json(folder / CARD, asdict(card))
