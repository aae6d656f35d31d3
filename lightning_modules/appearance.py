"""Stage 1, the appearance reference (3.2): F_ref learns what F reads to denoise other views of a portrait."""

from typing import ClassVar

from lightning_modules.stage import Stage


class AppearanceStage(Stage):
    """Trains F_ref, a copy of F, by Eq. 1 with F's self-attentions reading it (Eqs. 2-5), with no camera
    guidance.

    F is frozen. Its unconditional pass, for guidance, is F alone: nothing needs to be dropped in training.
    """

    stage: ClassVar[str] = "appearance"
    part: ClassVar[str] = "reference"

    def build(self) -> None:
        """F_ref is there already, with F's weights."""
