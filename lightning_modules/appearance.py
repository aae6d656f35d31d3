"""Stage 1, the appearance reference (3.2): F_ref learns what F reads to denoise other views of a portrait."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_modules.networks.provenance import ReferenceTimestep
from lightning_modules.stage import LEARNING, Batch, Drawn, Learning, Stage


class AppearanceStage(Stage):
    """Trains F_ref, a copy of F, by Eq. 1 with F's self-attentions reading it (Eqs. 2-5), with no camera
    guidance.

    F is frozen. Its unconditional pass, for guidance, is F alone: nothing needs to be dropped in training.

    `reference_timestep`: what F_ref sees: "zero" (its features are then computed once a portrait), or the
    "current", as released.
    """

    stage: ClassVar[str] = "appearance"
    part: ClassVar[str] = "reference"

    def __init__(
        self,
        backbone: str,
        reference_timestep: ReferenceTimestep = "zero",
        learning: Learning = LEARNING,
        **common: Any,
    ) -> None:
        super().__init__(backbone, learning, **common)
        self.reference_timestep = reference_timestep
        self.freeze()

    def probes(self, batch: Batch, drawn: Drawn) -> dict[str, tuple[Tensor, Tensor]]:
        """Also `portrait`: with nobody's portrait, F on its own. A gain over another's alone may hide that F
        does better without."""
        alone = self.denoise(batch, *drawn._replace(references=None)).mean(1)
        return super().probes(batch, drawn) | {"portrait": (alone, alone.new_ones(len(alone)))}
