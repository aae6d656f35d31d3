"""Scores and pictures of validation frames that the stage in training samples."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from callbacks.metrics.base import as_bytes
from callbacks.metrics.faces import Readings
from callbacks.metrics.suite import MetricSuite
from callbacks.pictures import grid
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.portrait import PortraitModel
from lightning_modules.networks.pretrained import Backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline, Sampling
from lightning_modules.sampling.trajectories import trajectory
from lightning_modules.sampling.video import check_video, write_video
from lightning_modules.sampling.view_conditions import prepare_renderer, render_view_conditions
from shards.cameras import angles
from shards.errors import InputError
from shards.renderers.registry import check_renderer

Batch = dict[str, Any]
PROTOCOL = "novel_view"
STEP = "trainer/global_step"
SHOWN_VIEWS = 3
ORBIT_FPS = 8.0


class Sampled(Protocol):
    """A stage whose networks make a pipeline; `stage` is its name."""

    stage: str
    vae: nn.Module
    scheduler: Any
    denoiser: Denoiser
    reference: AppearanceReference
    reference_timestep: Literal["zero", "current"]


class Evaluation(pl.Callback):
    """Samples `frames` validation frames, `views` views of each, on every `every_n_validations`-th
    validation, with whatever weights the validation runs on, and logs `val/novel_view/<METRIC>` and media.

    The same frames, cameras and noise every time, so that curves compare; the budget is `frames` × `views`
    images of `steps` denoising steps. Each rank samples its share. Media are a grid (reference; condition
    where there is F_cam, target and sample of some views), an orbit of `orbit_views` views of the first frame
    where there is F_cam, and a table of all views that can be sorted by any metric; they go to W&B, the
    pictures to TensorBoard, and everything into `evaluation/` of the run's folder. How long it took is logged
    as `val/evaluation_seconds`.

    Args:
        frames: how many validation frames, evenly spaced
        views: how many views of each, at most as many as the data module's targets
        every_n_validations: how often
        steps: denoising steps
        guidance: of classifier-free guidance
        metrics: names; all that this machine has weights for by default
        orbit_views: of the video; 0 for none
        renderer: of the orbit's conditions

    Raises InputError in `setup` where the module is none that can be sampled, there are fewer frames than
    ranks, or the orbit has no renderer or no writer.
    """

    def __init__(
        self,
        frames: int = 8,
        views: int = 4,
        every_n_validations: int = 1,
        steps: int = 20,
        guidance: float = 3.0,
        metrics: Sequence[str] | None = None,
        orbit_views: int = 0,
        renderer: str = "synthetic",
    ) -> None:
        for name, value in {
            "frames": frames,
            "views": views,
            "every_n_validations": every_n_validations,
        }.items():
            if value < 1:
                raise InputError(f"Evaluation: {name} is {value}: give 1 or more")
        self.frames = frames
        self.views = views
        self.every_n_validations = every_n_validations
        self.sampling = Sampling(steps=steps, guidance=guidance, noise="random")
        self.metrics = None if metrics is None else tuple(metrics)
        self.orbit_views = orbit_views
        self.renderer = renderer
        self.last: dict[str, Path] = {}
        self._suite: MetricSuite | None = None
        self._batch: Batch | None = None
        self._faces: list[Readings] = []
        self._orbit: Tensor | None = None
        self._validations = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Loads the metrics, and says which weights they use."""
        if not isinstance(getattr(pl_module, "denoiser", None), Denoiser):
            raise InputError(
                f"Evaluation: {type(pl_module).__name__} cannot be sampled: take the callback out"
            )
        if trainer.world_size > self.frames:
            raise InputError(f"Evaluation: {self.frames} frames for {trainer.world_size} ranks: raise frames")
        if self.orbit_views and pl_module.denoiser.control is not None:
            check_video()
            check_renderer(self.renderer)
        if self._suite is None:
            self._suite = MetricSuite(self.metrics)
            rank_zero_info(self._suite.notice)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells W&B over which step the scores run, and which way is better."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.define_metric(STEP)
                for name, higher in self._suite.directions.items():
                    best = "max" if higher else "min"
                    logger.experiment.define_metric(logged(name), step_metric=STEP, summary=best)

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Samples, scores, draws."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations:
            return
        began = time.perf_counter()
        batch, pipeline = self._frames(trainer), pipeline_of(pl_module)
        made = sample_views(pipeline, batch, self.sampling)
        scores = self._score(made, batch, pl_module.device)
        results = {logged(name): value for name, value in self._suite.compute().items()}
        if trainer.is_global_zero:
            self._show(trainer, pl_module.stage, batch, made, scores)
            if self.orbit_views and pipeline.view_control is not None:
                self._show_orbit(trainer, pl_module.stage, batch, pipeline)
        results["val/evaluation_seconds"] = time.perf_counter() - began
        pl_module.log_dict(results, sync_dist=True, batch_size=1)

    def _frames(self, trainer: pl.Trainer) -> Batch:
        """This rank's frames, read once: B frames, K views of each."""
        if self._batch is None:
            whole = trainer.datamodule.samples(self.frames, "val")
            mine = slice(trainer.global_rank, None, trainer.world_size)
            self._batch = {
                name: whole[name][mine] if name in ("key", "reference") else whole[name][mine, : self.views]
                for name in ("key", "reference", "target", "condition", "camera")
                if name in whole
            }
        return self._batch

    def _score(self, made: Tensor, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """The scores (B * K,) by metric; the targets' faces are looked for once in a training."""
        suite = self._suite.to(device)
        suite.reset()
        if not self._faces:
            looked = len(suite.faces) > 0
            self._faces = [suite.reader.read(x) if looked else [None] * len(x) for x in batch["target"]]
        frames = zip(made, batch["target"], batch["camera"], self._faces, strict=True)
        parts = [
            suite.update(images.to(device), truth.to(device), person=faces, pose=faces, cameras=cameras)
            for images, truth, cameras, faces in frames
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _show(
        self, trainer: pl.Trainer, stage: str, batch: Batch, made: Tensor, scores: dict[str, Tensor]
    ) -> None:
        """The grid and the table, on disk and to the loggers that can show them."""
        step, folder = trainer.global_step, folder_of(trainer)
        picture = grid(side_by_side(batch, made), 1, 2)
        self.last["grid"] = folder / f"grid-{step:07d}.png"
        picture.save(self.last["grid"])
        table = view_rows(batch, scores)
        self.last["table"] = folder / f"views-{step:07d}.csv"
        self.last["table"].write_text("\n".join(",".join(map(str, row)) for row in table) + "\n")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"media/{stage}/grid", [picture], step=step, caption=[f"step {step}"])
                log_table(logger, f"media/{stage}/views", table, batch, made, step)
            elif isinstance(logger, TensorBoardLogger):
                pixels = np.asarray(picture)
                logger.experiment.add_image(f"media/{stage}/grid", pixels, step, dataformats="HWC")

    def _show_orbit(
        self, trainer: pl.Trainer, stage: str, batch: Batch, pipeline: DiffPortrait3DPipeline
    ) -> None:
        """The first frame's person, circled."""
        step = trainer.global_step
        cameras = trajectory("orbit", self.orbit_views)
        if self._orbit is None:
            renderer, size = prepare_renderer(self.renderer), batch["target"].shape[-1]
            images = render_view_conditions(renderer, 0, cameras, size)
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
            self._orbit = pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        whole = {"reference": batch["reference"][:1], "condition": self._orbit[None], "key": batch["key"][:1]}
        made = sample_views(pipeline, whole | {"target": self._orbit[None]}, self.sampling)[0]
        self.last["orbit"] = folder_of(trainer) / f"orbit-{step:07d}.mp4"
        write_video(self.last["orbit"], [to_image(view) for view in made], ORBIT_FPS)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                name, file = f"media/{stage}/orbit", str(self.last["orbit"])
                logger.log_video(name, [file], step=step, caption=[f"step {step}"], format=["mp4"])


def logged(name: str) -> str:
    """The name under which a metric is logged."""
    return f"val/{PROTOCOL}/{name}"


def pipeline_of(stage: Sampled) -> DiffPortrait3DPipeline:
    """The pipeline of a stage's networks as they are now."""
    denoiser = stage.denoiser
    backbone = Backbone(stage.vae, denoiser.unet, stage.scheduler, denoiser.empty_prompt)
    return DiffPortrait3DPipeline.of(
        PortraitModel(
            backbone,
            stage.reference,
            denoiser.control,
            denoiser.cross_view,
            reference_timestep=stage.reference_timestep,
        )
    )


def sample_views(pipeline: DiffPortrait3DPipeline, batch: Batch, sampling: Sampling) -> Tensor:
    """Views (B, K, 3, S, S) in [-1, 1], on the CPU, of a batch's references, seeded by the frames' keys."""
    return pipeline.views(
        batch["reference"],
        batch["condition"] if pipeline.view_control is not None else None,
        seeds=[f"evaluation {key}" for key in batch["key"]],
        count=batch["target"].shape[1],
        sampling=sampling,
    )


def side_by_side(batch: Batch, made: Tensor) -> Tensor:
    """(B, P, 3, S, S): the reference, then of some views the condition where there is one, the target, and
    the sample."""
    columns = [batch["target"], made]
    if "condition" in batch:
        columns.insert(0, batch["condition"])
    shown = torch.stack([column[:, :SHOWN_VIEWS] for column in columns], 2).flatten(1, 2)
    return torch.cat([batch["reference"][:, :1], shown], 1)


def view_rows(batch: Batch, scores: dict[str, Tensor]) -> list[list[str | float]]:
    """A header, and a row for each view: whose, which, its yaw in degrees, and its scores."""
    yaw = np.degrees(angles(batch["camera"].numpy()))[..., 0]
    rows: list[list[str | float]] = [["key", "view", "yaw", *scores]]
    for number, (place, degrees) in enumerate(np.ndenumerate(yaw)):
        own = [round(float(values[number]), 6) for values in scores.values()]
        rows.append([batch["key"][place[0]], place[1], round(float(degrees), 1), *own])
    return rows


def log_table(
    logger: WandbLogger,
    name: str,
    rows: list[list[str | float]],
    batch: Batch,
    made: Tensor,
    step: int,
) -> None:
    """The rows with their pictures as a W&B Table."""
    import wandb

    kinds = {"reference": batch["reference"][:, :1].expand_as(made)}
    kinds |= {"condition": batch["condition"]} if "condition" in batch else {}
    kinds |= {"target": batch["target"], "sample": made}
    pictures = [[wandb.Image(to_image(view)) for view in images.flatten(0, 1)] for images in kinds.values()]
    data = [[*row, *own] for row, own in zip(rows[1:], zip(*pictures, strict=True), strict=True)]
    logger.log_table(name, columns=[*map(str, rows[0]), *kinds], data=data, step=step)


def to_image(pixels: Tensor) -> Image.Image:
    """Pixels (3, S, S) in [-1, 1] to an 8-bit image."""
    return Image.fromarray(as_bytes(pixels).permute(1, 2, 0).contiguous().cpu().numpy())


def folder_of(trainer: pl.Trainer) -> Path:
    """`evaluation/` in the run's folder."""
    folder = Path(trainer.log_dir or trainer.default_root_dir) / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
