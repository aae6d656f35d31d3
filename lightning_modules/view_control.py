"""Stage 2, view control (3.3): F_cam learns to transfer the view of the person in the condition to the
portrait."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.view_control import view_control
from lightning_modules.optimization import Learning
from lightning_modules.stage import LEARNING, Batch, Drawn, Stage


class ViewControlStage(Stage):
    """Trains F_cam, a ControlNet copy of F, by Eq. 1 on conditions of other people at the targets' cameras.

    F and F_ref are frozen.

    Args:
        appearance: F_ref, the exported folder or checkpoint of stage 1
    """

    stage: ClassVar[str] = "view_control"
    part: ClassVar[str] = "denoiser.control"

    def __init__(self, backbone: str, appearance: str, learning: Learning = LEARNING, **common: Any) -> None:
        super().__init__(backbone, learning, **common)
        self.load(self.reference, appearance, AppearanceStage.stage)
        self.denoiser.control = view_control(self.denoiser.unet, self.downsampling)
        self.freeze()

    def probes(self, batch: Batch, drawn: Drawn) -> dict[str, tuple[Tensor, Tensor]]:
        """Also `condition`: with the condition of the next view, i.e. of another camera."""
        turned = batch | {"condition": batch["condition"].roll(1, 1)}
        lost = self.denoise(turned, *drawn).mean(1)
        return super().probes(batch, drawn) | {"condition": (lost, lost.new_ones(len(lost)))}
