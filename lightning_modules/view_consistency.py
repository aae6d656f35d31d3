"""Stage 3, view consistency (3.4): V learns to make the views of a portrait consistent."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.cross_view import CrossView, Middle
from lightning_modules.networks.view_control import view_control
from lightning_modules.optimization import Learning, step_generator
from lightning_modules.stage import LEARNING, Batch, Drawn, Stage
from lightning_modules.view_control import ViewControlStage


class ViewConsistencyStage(Stage):
    """Trains V, attention across the views of a portrait, by Eq. 1 on shuffled views that share a timestep.

    F, F_ref and F_cam are frozen.

    Args:
        appearance: F_ref, the exported folder or checkpoint of stage 1
        control: F_cam, the exported folder or checkpoint of stage 2
        middle, positions, attentions, ff_mult: settings of V; see `networks.cross_view.CrossView`
        fewer_views: in half of the steps, split the views of a portrait into rows whose length is a random
            proper divisor of their number, so that V learns to use fewer. In the paper there are always eight
    """

    stage: ClassVar[str] = "view_consistency"
    part: ClassVar[str] = "denoiser.cross_view"
    shown_views: ClassVar[int] = 4

    def __init__(
        self,
        backbone: str,
        appearance: str,
        control: str,
        middle: Middle = "never",
        positions: int = 32,
        attentions: int = 2,
        ff_mult: int = 4,
        fewer_views: bool = False,
        learning: Learning = LEARNING,
        **common: Any,
    ) -> None:
        super().__init__(backbone, learning, **common)
        self.load(self.reference, appearance, AppearanceStage.stage)
        self.denoiser.control = view_control(self.denoiser.unet, self.downsampling)
        self.load(self.denoiser.control, control, ViewControlStage.stage)
        self.denoiser.cross_view = CrossView.from_unet(
            self.denoiser.unet, middle, positions, attentions=attentions, ff_mult=ff_mult
        )
        self.freeze()
        if middle == "unconditional":
            # The middle module runs only without a reference, never in Eq. 1: DDP would wait for its
            # gradients.
            middle_module = self.denoiser.cross_view.mid
            assert middle_module is not None
            middle_module.requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Eq. 1 for all views of a portrait together, or for rows of fewer."""
        if self.hparams.fewer_views:
            draw = step_generator(self, f"{self.hparams.seed} views", batch_idx)
            batch = split_views(batch, drawn_length(batch["condition"].shape[1], draw))
        return super().training_step(batch, batch_idx)

    def probes(self, batch: Batch, drawn: Drawn) -> dict[str, tuple[Tensor, Tensor]]:
        """Also `views`: with each view alone, so that V has no other views to attend to."""
        views, references = drawn.latents.shape[1], drawn.references
        assert references is not None
        alone = Drawn(
            references.repeat_interleave(views, 0),
            *(x.flatten(0, 1).unsqueeze(1) for x in drawn[1:]),
        )
        single = batch | {"condition": batch["condition"].flatten(0, 1).unsqueeze(1)}
        lost = self.denoise(single, *alone).unflatten(0, (-1, views)).mean((1, 2))
        return super().probes(batch, drawn) | {"views": (lost, lost.new_ones(len(lost)))}


def drawn_length(views: int, draw: torch.Generator) -> int:
    """The number of views, or with probability 1/2 a random proper divisor of it."""
    divisors = [length for length in range(1, views) if views % length == 0]
    if not divisors or torch.rand(1, generator=draw) < 0.5:
        return views
    return divisors[int(torch.randint(len(divisors), (1,), generator=draw))]


def split_views(batch: Batch, length: int) -> Batch:
    """The batch with every frame's V views split into rows of `length`, a divisor of V, each with the frame's
    references and a unique position in the stream."""
    views = batch["condition"].shape[1]
    if length == views:
        return batch
    rows = views // length

    def split(name: str, x: Any) -> Any:
        if isinstance(x, list):
            return [item for item in x for _ in range(rows)] if name != "skipped" else x
        if name.startswith(("target", "condition")) or name == "camera":
            return x.unflatten(1, (rows, length)).flatten(0, 1)
        return x.repeat_interleave(rows, 0)

    numbered = batch["position"].unsqueeze(1) * rows + torch.arange(rows, device=batch["position"].device)
    return {name: split(name, x) for name, x in batch.items()} | {"position": numbered.flatten()}
