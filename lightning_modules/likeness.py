"""Similarity of generated views to the truth and to the person on the portrait, with intervals over people.

Shape letters: B people, K views of each, N = B*K views, S image side, D features of a face.
"""

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.evaluation.statistics import RESAMPLES, Estimate, percentile_interval, resample
from metrics.faces import FaceReader, Readings
from metrics.identity import ID
from metrics.pose import POSE, CameraPOSE
from metrics.suite import MetricSuite
from portraits.pixels import brightness_gradient, to_images
from shards.index import ShardIndex
from shards.manifest import Manifest
from shards.reader import ShardReader
from shards.schema import decode

Batch = dict[str, Any]
PAIRED = ("PSNR", "SSIM", "LPIPS[efficientnet-lite0]", "DISTS[efficientnet-lite0]")
KID = "KID[efficientnet-lite0]"


@dataclass(frozen=True)
class RowScores:
    """Each view's scores (B, K) by name, NaN if it cannot be scored, and the distances between sets."""

    views: dict[str, NDArray[np.float64]]
    sets: dict[str, float]

    def estimates(self) -> dict[str, Estimate]:
        """The mean of each score over views (the median of yaw errors), with an interval over people."""
        found = {name: estimate(values, name.startswith("yaw error")) for name, values in self.views.items()}
        return found | {name: Estimate(value, np.nan, np.nan, 0) for name, value in self.sets.items()}


class Likeness:
    """Scores views (B, K, 3, S, S) in [-1, 1] of a batch's people at its cameras, by name:

    - PSNR, SSIM, LPIPS, DISTS and KID against the truth;
    - `ID`, the cosine of face embeddings, and `POSE` against the truth, and `ID to the portrait`;
    - `re-identified`: whether the person's own portrait has the nearest embedding of all portraits; false for
    a view without a face;
    - `faces`: whether a face is found; `yaw error`: the error of its yaw against the camera, in degrees;
    - `sharpness`: the mean brightness gradient on the person, relative to the truth's.

    A batch has one or more references of each person, of which the first is used. Its `mask` (B, K, S, S), if
    any, is the person's; without it, sharpness is that of the whole image.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch, self.reader = batch, FaceReader()
        self.suite = MetricSuite((*PAIRED, KID))
        self.identity, self.turn = ID(reader=self.reader), POSE(reader=self.reader)
        self.pose = CameraPOSE(reader=self.reader)
        self.faces = self.reader.read(batch["target"].flatten(0, 1))
        self.truth = self.embeddings(self.faces)
        self.portraits = self.embeddings(self.reader.read(batch["reference"][:, 0]))
        self.gradients = self._gradients(batch["target"])

    def score(self, made: Tensor) -> RowScores:
        """All scores of generated views (B, K, 3, S, S). For the truth itself, scores against the truth are
        left out."""
        shape, truth = made.shape[:2], self.batch["target"]
        scores: dict[str, Tensor] = {}
        sets: dict[str, float] = {}
        itself = torch.equal(made, truth)
        faces = self.faces if itself else self.reader.read(made.flatten(0, 1))
        found = self.truth if itself else self.embeddings(faces)
        if not itself:
            self.suite.reset()
            scores |= self.suite.update(made.flatten(0, 1), truth.flatten(0, 1))
            sets = {name: value for name, value in self.suite.compute().items() if name.startswith("KID")}
            scores[self.identity.label] = F.cosine_similarity(found, self.truth)
            scores[self.turn.label] = self.turn.compare(faces, self.faces)[:, 0]
        own = self.portraits.repeat_interleave(shape[1], 0)
        scores[f"{self.identity.label} to the portrait"] = F.cosine_similarity(found, own)
        scores["re-identified"] = self._identified(found, shape[1])
        scores["faces"] = torch.tensor([face is not None for face in faces])
        yaw = self.pose.columns.index(f"{self.pose.label}_yaw_degrees")
        scores["yaw error"] = self.pose.scores(faces, self.batch["camera"].flatten(0, 1))[:, yaw]
        scores["sharpness"] = (self._gradients(made) / self.gradients).flatten()
        return RowScores({name: x.double().reshape(shape).numpy() for name, x in scores.items()}, sets)

    def embeddings(self, faces: Readings) -> Tensor:
        """Embeddings (N, D) of faces; NaN if there is none."""
        there = [number for number, face in enumerate(faces) if face is not None]
        if not there:
            return torch.full((len(faces), 1), torch.nan)
        known = self.identity.embed([face for face in faces if face is not None])
        return torch.full((len(faces), known.shape[1]), torch.nan).index_copy(0, torch.tensor(there), known)

    def _identified(self, found: Tensor, views: int) -> Tensor:
        """Whether each of the embeddings (N, D) is nearest to its own person's portrait (N,); NaN if no face
        is found in that portrait."""
        people = len(self.portraits)
        own = torch.arange(people).repeat_interleave(views)
        cosines = F.cosine_similarity(found[:, None], self.portraits[None], dim=-1).nan_to_num(-2)
        right = ((cosines.argmax(1) == own) & ~found.isnan().any(1)).double()
        return right.where(~self.portraits.isnan().any(1)[own], torch.nan)

    def _gradients(self, images: Tensor) -> Tensor:
        """The mean brightness gradient (B, K) of images (B, K, 3, S, S) on the person."""
        down, across = brightness_gradient(images)
        weights = self.batch.get("mask", torch.ones_like(down)).float()
        total = weights.sum((2, 3)).clamp_min(1e-6)
        return (torch.hypot(down, across) * weights).sum((2, 3)) / total


def estimate(values: NDArray[np.float64], median: bool = False, seed: int = 0) -> Estimate:
    """The mean, or median, of scores (B, K) that are not NaN, with a 95 % bootstrap interval over people, as
    views of one person are not independent."""
    of = np.nanmedian if median else np.nanmean
    values = values[np.isfinite(values).any(1)]
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, 0)
    count = int(np.isfinite(values).sum())
    if len(values) < 2:
        return Estimate(float(of(values)), np.nan, np.nan, count)
    resampled = of(values[resample(len(values), seed)].reshape(RESAMPLES, -1), axis=1)
    return Estimate(float(of(values)), *percentile_interval(resampled), count)


def neighbour_difference(views: Tensor) -> float:
    """Mean absolute difference, in 8-bit levels, between neighbouring views of a closed path (K, 3, S, S) in
    [-1, 1]."""
    levels = torch.from_numpy(to_images(views)).float()
    return (levels - levels.roll(1, 0)).abs().mean().item()


def read_masks(data: str, batch: Batch) -> Tensor | None:
    """The masks (B, K, S, S) in [0, 1] of a batch's test views, identified by keys and cameras; None if the
    folder has none."""
    manifest, found = Manifest.load(Path(data)), {}
    wanted = {key: row for row, key in enumerate(batch["key"])}
    with closing(ShardReader()) as reader:
        for shard in manifest.of_split("test"):
            path = Path(data, shard.name)
            index = ShardIndex.scan(path)
            for position, key in enumerate(index.keys):
                if key not in wanted:
                    continue
                sample = decode(reader.read(path, index.members(position)), size=manifest.image_size)
                if sample.masks is None:
                    return None
                cameras = batch["camera"][wanted[key]].numpy()
                views = [int(np.abs(sample.cameras - camera).sum(1).argmin()) for camera in cameras]
                found[key] = torch.from_numpy(sample.masks[views]).float() / 255
    return torch.stack([found[key] for key in batch["key"]])


def as_json(rows: dict[str, RowScores]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Means and intervals by row and score; None for undefined values."""
    return {
        row: {
            name: {key: None if np.isnan(x) else x for key, x in asdict(value).items()}
            for name, value in scores.estimates().items()
        }
        for row, scores in rows.items()
    }


def table(rows: dict[str, RowScores]) -> list[str]:
    """The lines of a Markdown table of rows by name: means, and in brackets their intervals."""
    found = {name: scores.estimates() for name, scores in rows.items()}
    fullest_first = sorted(found.values(), key=len, reverse=True)
    columns = list(dict.fromkeys(column for row in fullest_first for column in row))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, row in found.items():
        cells = [_cell(row[column]) if column in row else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cell(value: Estimate) -> str:
    interval = "" if np.isnan(value.low) else f" ({value.low:.3g} to {value.high:.3g})"
    return f"{value.mean:.4g}{interval}"
