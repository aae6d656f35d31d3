"""Stage 1, the appearance reference (3.2): F_ref learns features of a portrait that help F to denoise other
views."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_modules.networks.provenance import ReferenceTimestep
from lightning_modules.optimization import Learning
from lightning_modules.stage import LEARNING, Batch, Drawn, Stage


class AppearanceStage(Stage):
    """Trains F_ref, a copy of F, by Eq. 1, with its features as keys and values in F's self-attentions (Eqs.
    2-5) and without camera guidance.

    F is frozen. The unconditional pass of guidance is F alone, so no condition is dropped in training.

    Args:
        reference_timestep: the timestep of F_ref: "zero", with which features are computed once per portrait,
            or "current", as in the released model
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
        """Also `portrait`: without any portrait, i.e. F alone. The gain over another person's portrait does
        not show whether F is better without one."""
        alone = self.denoise(batch, *drawn._replace(references=None)).mean(1)
        return super().probes(batch, drawn) | {"portrait": (alone, alone.new_ones(len(alone)))}
