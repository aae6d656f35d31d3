"""Scores and pictures of validation frames, sampled by the stage in training."""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from callbacks.media import Rows, log_picture, log_rows, log_video, media_name, run_folder
from callbacks.pictures import save_picture
from callbacks.stage_samples import Batch, Sampler, follows_cameras, sampler_of, takes_conditions
from core.devices import CPU, has_float64
from core.errors import InputError
from core.files import write_text
from generators.registry import STUDIO, RendererChoice, check_renderer
from lightning_modules.evaluation.directions import WandbSummaries
from lightning_modules.evaluation.scoring import fid_notes
from lightning_modules.evaluation.tables import ordered
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.trajectories import trajectory
from lightning_modules.sampling.view_conditions import prepare_renderer, render_view_conditions
from metrics.faces import Readings
from metrics.suite import MetricSuite
from portraits.cameras import angles
from portraits.contact_sheet import case_sheet, grid
from portraits.pixels import to_images, to_pixels
from portraits.video import check_video, write_video

SHOWN_VIEWS, SHOWN_CASES = 3, 4
ORBIT_FPS = 8.0
ORBIT_COLUMNS = 8
GRID, WORST, VIEWS, ORBIT = "grid", "worst", "views", "orbit"  # kinds of what is logged


class Evaluation(pl.Callback):
    """Samples validation frames, and logs their scores as `val/<protocol>/<METRIC>` with pictures.

    Stages 1 to 3 are sampled from random noise; the noise prior S renders proxies. Frames, cameras and noise
    are the same at every validation, so that curves are comparable. The weights are those being validated
    (the average, if there is one). The cost is `frames` x `views` images of `steps` denoising steps; the time
    is logged as `val/evaluation_seconds`.

    Frames are divided among ranks. The first rank draws its own: a grid (reference; condition if used, target
    and sample of some views), a table of all views with their scores, the worst views by the first metric,
    and, if the stage predicts views at given cameras, an orbit around the first frame's person. The files are
    written to `evaluation/` in the run's folder; W&B receives all of them, TensorBoard pictures and text.

    Args:
        frames: number of validation frames, evenly spaced; at least one for each rank
        views: largest number of views of each frame
        every_n_validations: interval, in validations
        steps: number of denoising steps
        guidance: scale of classifier-free guidance
        metrics: names of metrics; by default all whose weights are available
        orbit_views: number of views in the orbit; 0 for no orbit
        renderer: renderer of the orbit's conditions: studio, synthetic, baked, eg3d:FOLDER,
            panohead:FOLDER, or a GAN's options

    Raises InputError in `setup` if the module cannot be sampled, or the orbit cannot be rendered or written;
    and during validation if there are fewer frames than ranks.
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
        renderer: RendererChoice = STUDIO,
    ) -> None:
        counts = {"frames": frames, "views": views, "every_n_validations": every_n_validations}
        for name, value in counts.items():
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
        self.table: Path | None = None
        self._suite: MetricSuite | None = None
        self._batch: Batch | None = None
        self._faces: list[Readings] = []
        self._orbit: Batch | None = None
        self._summaries = WandbSummaries()
        self._validations = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Loads the metrics, and prints their weights."""
        sampler_of(pl_module, self.sampling)
        if self.orbit_views and follows_cameras(pl_module):
            check_video()
            if takes_conditions(pl_module):
                check_renderer(self.renderer)
        if self._suite is None:
            self._suite = MetricSuite(self.metrics)
            labels = [metric.label for metric in self._suite.sets]
            notes = fid_notes(self._suite, dict.fromkeys(labels, 0.0), self.frames * self.views)
            for line in (self._suite.notice, *notes):
                rank_zero_info(line)

    def state_dict(self) -> dict[str, Any]:
        """The number of validations so far, so that a resumed run keeps the interval."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the number of validations."""
        self._validations = state_dict["validations"]

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Samples, scores and draws at every `every_n_validations`-th validation."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        due = (self._validations - 1) % self.every_n_validations == 0
        results = self._evaluate(trainer, pl_module) if due else {}
        pl_module.log_dict(results, sync_dist=True, batch_size=1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Defines the direction of each metric in W&B, before the metrics are logged."""
        if trainer.sanity_checking:
            return
        if trainer.is_global_zero:  # Lightning has reduced the values before this hook
            self._summaries.define(trainer.loggers, list(trainer.callback_metrics))

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """The values to log, by name."""
        began = time.perf_counter()
        # all ranks have to call it, as it broadcasts
        folder = run_folder(trainer) / "evaluation"
        batch, sampler = self._frames(trainer), sampler_of(pl_module, self.sampling)
        with trainer.precision_plugin.forward_context():
            samples = sampler(batch)
        scores = self._score(samples, batch, pl_module.device)
        protocol, suite = trainer.datamodule.protocol, self._suite
        assert suite is not None  # created in setup
        results = {f"val/{protocol}/{name}": value for name, value in suite.compute().items()}
        if trainer.is_global_zero:
            shown = batch if takes_conditions(pl_module) else without_conditions(batch)
            self._show(trainer, pl_module.stage, folder, shown, samples, scores)
            if self.orbit_views and follows_cameras(pl_module):
                self._show_orbit(trainer, pl_module, folder, sampler)
        return results | {"val/evaluation_seconds": time.perf_counter() - began}

    def _frames(self, trainer: pl.Trainer) -> Batch:
        """This rank's frames, B frames of K views, read at the first validation."""
        if self._batch is None:
            whole = trainer.datamodule.samples(max(self.frames, trainer.world_size), "val")
            if len(whole["key"]) < trainer.world_size:
                raise InputError(
                    f"Evaluation: {len(whole['key'])} validation frames for {trainer.world_size} ranks"
                )
            share = slice(trainer.global_rank, None, trainer.world_size)
            self._batch = {
                name: whole[name][share] if name in ("key", "reference") else whole[name][share, : self.views]
                for name in ("key", "reference", "target", "condition", "camera")
                if name in whole
            }
        return self._batch

    def _score(self, samples: Tensor, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """The scores (B * K,) by metric. Faces in the targets are detected at the first validation only."""
        assert self._suite is not None  # created in setup
        device = device if has_float64(device) else torch.device(CPU)  # metrics average in float64
        suite = self._suite.to(device)
        suite.reset()
        if not self._faces:
            looked = len(suite.faces) > 0
            self._faces = [suite.reader.read(x) if looked else [None] * len(x) for x in batch["target"]]
        frames = zip(samples, batch["target"], batch["camera"], self._faces, strict=True)
        parts = [
            suite.update(images.to(device), truth.to(device), person=faces, pose=faces, cameras=cameras)
            for images, truth, cameras, faces in frames
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _show(
        self,
        trainer: pl.Trainer,
        stage: str,
        folder: Path,
        batch: Batch,
        samples: Tensor,
        scores: dict[str, Tensor],
    ) -> None:
        """Write the grid, the table and its worst rows, and log them."""
        step = trainer.global_step
        drawn = {GRID: grid(to_images(side_by_side(batch, samples)), 1, 2)}
        rows, views = view_rows(batch, scores), view_images(batch, samples)
        if scores and self._suite is not None:
            drawn[WORST] = worst_view_sheet(rows, views, self._suite.directions)
        for name, picture in drawn.items():
            self.last[name] = save_picture(picture, folder, name, step)
            log_picture(trainer, media_name(stage, name), picture)
        self.table = folder / f"views-{step:07d}.csv"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_text(self.table, text.getvalue())
        log_rows(trainer, media_name(stage, VIEWS), rows, views)

    def _show_orbit(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, folder: Path, sampler: Sampler
    ) -> None:
        """Draw the orbit around the first frame's person."""
        if self._orbit is None:
            self._orbit = self._orbit_batch(takes_conditions(pl_module))
        with trainer.precision_plugin.forward_context():
            views = to_images(sampler(self._orbit)[0])
        self.last[ORBIT] = folder / f"orbit-{trainer.global_step:07d}.mp4"
        write_video(self.last[ORBIT], [Image.fromarray(view) for view in views], ORBIT_FPS)
        still = grid(views[:, None], ORBIT_COLUMNS, 1)
        log_video(trainer, media_name(pl_module.stage, ORBIT), self.last[ORBIT], still)

    def _orbit_batch(self, conditions: bool) -> Batch:
        """The first frame's references with the cameras of an orbit and, if the stage uses conditions,
        renders of another person at these cameras."""
        cameras = trajectory("orbit", self.orbit_views)
        assert self._batch is not None  # read at the first validation
        person = {name: self._batch[name][:1] for name in ("key", "reference")}
        batch = person | {"camera": torch.from_numpy(cameras)[None]}
        if conditions:
            size = self._batch["target"].shape[-1]
            images = render_view_conditions(prepare_renderer(self.renderer), 0, cameras, size)
            batch["condition"] = to_pixels(np.stack([np.asarray(image) for image in images]))[None]
        return batch


def without_conditions(batch: Batch) -> Batch:
    """A batch without its condition images."""
    return {name: value for name, value in batch.items() if name != "condition"}


def side_by_side(batch: Batch, samples: Tensor) -> Tensor:
    """Pictures (B, P, 3, S, S) of each frame: its reference, then the condition (if any), target and sample
    of its first views."""
    columns = [batch["target"], samples]
    if "condition" in batch:
        columns.insert(0, batch["condition"])
    shown = torch.stack([column[:, :SHOWN_VIEWS] for column in columns], 2).flatten(1, 2)
    return torch.cat([batch["reference"][:, :1], shown], 1)


def view_rows(batch: Batch, scores: dict[str, Tensor]) -> Rows:
    """A header, and a row for each view: key of the frame, number of the view, yaw in degrees, scores."""
    yaw = np.degrees(angles(batch["camera"].numpy()))[..., 0]
    rows: list[list[str | float]] = [["key", "view", "yaw", *scores]]
    for number, ((frame, view), degrees) in enumerate(np.ndenumerate(yaw)):
        values = [round(float(score[number]), 6) for score in scores.values()]
        rows.append([batch["key"][frame], view, round(float(degrees), 1), *values])
    return rows


def view_images(batch: Batch, samples: Tensor) -> dict[str, list[Image.Image]]:
    """The pictures of each row of `view_rows`, by column."""
    kinds = {"reference": batch["reference"][:, :1].expand_as(samples)}
    kinds |= {"condition": batch["condition"]} if "condition" in batch else {}
    kinds |= {"target": batch["target"], "sample": samples}
    return {
        kind: [Image.fromarray(image) for image in to_images(pixels.flatten(0, 1))]
        for kind, pixels in kinds.items()
    }


def worst_view_sheet(
    rows: Rows, images: dict[str, list[Image.Image]], higher: dict[str, bool]
) -> Image.Image:
    """A sheet of the views with the worst scores by the first metric, in the order of the tables; views that
    could not be scored come first."""
    metric = ordered([name for name in rows[0] if name in higher])[0]
    column = rows[0].index(metric)
    values = np.array([row[column] for row in rows[1:]], dtype=np.float64)
    badness = np.where(np.isnan(values), np.inf, -values if higher[metric] else values)
    worst = np.argsort(-badness, kind="stable")[:SHOWN_CASES].tolist()
    cases = {
        f"{metric} {values[i]:.3g}  yaw {rows[i + 1][2]:+.0f}°  {rows[i + 1][0]} view {rows[i + 1][1]}": [
            column[i] for column in images.values()
        ]
        for i in worst
    }
    return case_sheet(list(images), cases)
