"""What a trained part says of itself: which stage made it, on which backbone, beside which other parts, and
what using it takes."""

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
# The names of settings.
TIMESTEP, TRAINED_WITH = "reference_timestep", "trained_with"


@dataclass(frozen=True)
class StageCard:
    """Which stage made a part (`stage`, the class of the part in `part`), on which backbone, with which
    settings.

    `settings` are what using the part takes beside its weights: `reference_timestep`, what F_ref sees, and
    `trained_with`, by stage the fingerprints of the parts that were frozen beside it.
    """

    __pydantic_config__: ClassVar = STRICT

    stage: str
    part: str
    backbone: str
    settings: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Raise InputError on another format, and on settings that are no card's."""
        if self.format != FORMAT:
            raise InputError(f"format {self.format} of a trained part; this version reads {FORMAT}")
        parts = self.settings.get(TRAINED_WITH, {})
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise InputError(f"{TRAINED_WITH} does not name parts by their fingerprints")

    @classmethod
    def parse(cls, values: Any, where: str) -> Self:
        """A card from JSON values. Raises InputError on anything else, and on another format."""
        return check_values(cls, values, f"{where}: not the card of a trained part")

    @property
    def trained_with(self) -> dict[str, str]:
        """By stage, the fingerprints of the parts that this one was trained with; empty where there were
        none, and on cards of before they were noted."""
        return self.settings.get(TRAINED_WITH, {})

    def sees(self, where: str) -> ReferenceTimestep:
        """The timestep that F_ref saw. Raises InputError where the card says none, or another than there
        are."""
        timestep = self.settings.get(TIMESTEP)
        if timestep not in get_args(ReferenceTimestep):
            raise InputError(
                f"{where}: its card ({CARD}) has {TIMESTEP} {timestep!r}, where "
                f"{' or '.join(map(repr, get_args(ReferenceTimestep)))} is wanted: export the part again"
            )
        return timestep

    def check(self, stage: str, backbone: str, where: str) -> None:
        """Raises InputError unless this is of `stage`, and of the backbone with this fingerprint."""
        if self.stage != stage:
            raise InputError(f"{where} is of the stage {self.stage}; the stage {stage} is wanted here")
        if self.backbone != backbone:
            raise InputError(
                f"{where} was trained on another backbone ({self.backbone}, not {backbone}): "
                "give the backbone it belongs to, or train it on this one"
            )

    def check_beside(self, parts: Mapping[str, str], where: str) -> None:
        """Raises InputError where this was trained with another part of a stage than the one whose
        fingerprint `parts` has; those that either leaves out are not compared."""
        for stage, known in self.trained_with.items():
            if parts.get(stage, known) != known:
                raise InputError(
                    f"{where} was trained with another part of the stage {stage} ({known}, not "
                    f"{parts[stage]}): give the parts of one run of the stages, or train it with this one"
                )

    def check_same_run(self, now: "StageCard", where: str) -> None:
        """Raises InputError unless a run whose part has the card `now` may go on from this part."""
        self.check(now.stage, now.backbone, where)
        self.check_beside(now.trained_with, where)
        was, wanted = self.settings.get(TIMESTEP), now.settings.get(TIMESTEP)
        if was != wanted:
            raise InputError(f"{where} was trained with F_ref at the {was} timestep, this run has {wanted}")


@dataclass
class Lineage:
    """The parts on one backbone that are to work together, added in the order of their stages.

    `backbone`: its fingerprint. `parts`: fingerprints by stage. `reference_timestep`: what F_ref sees, None
    until a part says it.
    """

    backbone: str
    parts: dict[str, str] = field(default_factory=dict)
    reference_timestep: ReferenceTimestep | None = None

    def add(self, card: StageCard, weights: Mapping[str, Tensor], where: str) -> None:
        """Takes a part, whose state dict is `weights`, to those before it. Raises InputError where it does
        not belong to them: trained on another backbone, at another timestep of F_ref, with another part."""
        card.check(card.stage, self.backbone, where)
        timestep = card.sees(where)
        if self.reference_timestep not in (None, timestep):
            raise InputError(
                f"{where} was trained with F_ref at the {timestep} timestep, what comes before it at the "
                f"{self.reference_timestep}: give the parts of one run of the stages"
            )
        card.check_beside(self.parts, where)
        self.reference_timestep = timestep
        self.parts[card.stage] = fingerprints.of_tensors(weights)

    def settings(self, reference_timestep: ReferenceTimestep) -> dict[str, Any]:
        """The settings of the card of a part that is trained with these parts."""
        beside = {TRAINED_WITH: dict(self.parts)} if self.parts else {}
        return {TIMESTEP: reference_timestep, **beside}


def write_card(card: StageCard, folder: Path) -> None:
    """Puts the card beside the part in a folder."""
    write_json(folder / CARD, asdict(card))
