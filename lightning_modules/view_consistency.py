"""Stage 3, view consistency (3.4): V learns to make the views of one portrait agree."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.cross_view import CrossView, Middle
from lightning_modules.networks.view_control import view_control
from lightning_modules.optimization import step_generator
from lightning_modules.stage import LEARNING, Batch, Drawn, Learning, Stage
from lightning_modules.view_control import ViewControlStage


class ViewConsistencyStage(Stage):
    """Trains V, attention among the views of a portrait, by Eq. 1 on shuffled views that share a timestep.

    F, F_ref and F_cam are frozen.

    `appearance` and `control`: F_ref and F_cam, as stages 1 and 2 left them: exported folders or checkpoints.
    `middle`, `positions`, `attentions`, `ff_mult`: of V, see `networks.cross_view.CrossView`.
    `fewer_views`: in half of the steps the views of a portrait are split into rows of a length drawn among
    the proper divisors of their number, so that V learns to use fewer. The paper's V always sees eight.
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
            # It runs where there is no reference, which Eq. 1 never is: DDP would wait for its gradients.
            middle_module = self.denoiser.cross_view.mid
            assert middle_module is not None
            middle_module.requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Eq. 1 of all views of a portrait at once, or of fewer."""
        if self.hparams.fewer_views:
            draw = step_generator(self, f"{self.hparams.seed} views", batch_idx)
            batch = split_views(batch, drawn_length(batch["condition"].shape[1], draw))
        return super().training_step(batch, batch_idx)

    def probes(self, batch: Batch, drawn: Drawn) -> dict[str, tuple[Tensor, Tensor]]:
        """Also `views`: with each view on its own, so that V has nothing to compare."""
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
    """All of the views in half of the draws, otherwise one of their number's proper divisors."""
    divisors = [length for length in range(1, views) if views % length == 0]
    if not divisors or torch.rand(1, generator=draw) < 0.5:
        return views
    return divisors[int(torch.randint(len(divisors), (1,), generator=draw))]


def split_views(batch: Batch, length: int) -> Batch:
    """The batch with every frame's V views in rows of `length`, a divisor of V, each with its references and
    a position of its own in the stream."""
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
