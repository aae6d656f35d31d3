"""All metrics together, with one forward pass per image and network. N images, S image side."""

import logging
import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

import torch
from torch import Tensor, distributed, nn

from core.errors import InputError
from metrics.base import PairMetric
from metrics.catalogue import ALEXNET, CATALOGUE, CHOICES, VGG16, choose, notice
from metrics.faces import FaceReader, Readings
from metrics.features import extractor
from metrics.identity import ID
from metrics.perceptual import DISTS, LPIPS
from metrics.pixels import PSNR, SSIM
from metrics.pose import POSE, CameraPOSE
from metrics.sets import FID, KID, SetMetric

log = logging.getLogger(__name__)

PAIRED = {"PSNR": PSNR, "SSIM": SSIM, "LPIPS": LPIPS, "DISTS": DISTS}
FACES = {"ID": ID, "POSE": POSE}
SETS = {"FID": FID, "KID": KID}
ALL = ("PSNR", "SSIM", "LPIPS", "DISTS", "ID", "POSE", "FID", "KID")

COUNTS = ("_failures", "_failures_of_truth", "_by_camera")  # suffixes of names of counts
_NAME = re.compile(r"([A-Z]+)(?:\[([a-z0-9-]+(?:=[^\]]+)?)\])?")


class MetricSuite(nn.Module):
    """Scores generated images with several metrics, per image and as sets.

    The weights in use are logged once, in one line.

    Args:
        metrics: names, optionally with weights: `"LPIPS"` (the best available weights), `"LPIPS[vgg16]"`,
            `"ID[arcface=/models/r100.onnx]"` (a file that the user provides); by default all metrics whose
            weights are available

    Raises InputError if a metric is unknown or its weights are not available.
    """

    def __init__(self, metrics: Sequence[str] | None = None) -> None:
        super().__init__()
        names = available() if metrics is None else tuple(metrics)
        if not names:
            raise InputError("metrics: the list is empty")
        self.reader = FaceReader()
        self.pairs = nn.ModuleList()
        self.faces = nn.ModuleList()
        self.sets = nn.ModuleList()
        for name in names:
            self._add(*parse(name))
        poses = [metric for metric in self.faces if isinstance(metric, POSE)]
        self.cameras = nn.ModuleList(CameraPOSE(pose.weights, self.reader) for pose in poses)
        weighted = (*self.pairs, *self.faces, *self.sets)
        chosen = [(metric.symbol, metric.weights) for metric in weighted if metric.weights is not None]
        present = {parse(name)[0] for name in names}
        self.notice = notice(chosen, [name for name in ALL if name not in present] if metrics is None else [])
        log.info(self.notice)

    def _add(self, symbol: str, weights: str | None) -> None:
        if symbol in PAIRED:
            kind = PAIRED[symbol]
            self.pairs.append(kind(weights) if symbol in CHOICES else kind())
        elif symbol in FACES:
            self.faces.append(FACES[symbol](weights, self.reader))
        else:
            weights = weights or choose(symbol)
            shared = next((metric.network for metric in self.sets if metric.weights == weights), None)
            self.sets.append(SETS[symbol](weights, shared or extractor(weights)))

    @property
    def directions(self) -> dict[str, bool]:
        """Whether higher is better, for each name in `compute` except counts."""
        scored = [*self.pairs, *self.faces, *self.cameras]
        columns = {name: metric.higher_is_better for metric in scored for name in metric.columns}
        return columns | {metric.label: metric.higher_is_better for metric in self.sets}

    def check_side(self, side: int) -> None:
        """Raise InputError if images of `side` pixels are too small for a metric of pairs."""
        for metric in self.pairs:
            if side < metric.least_side:
                least = metric.least_side
                raise InputError(
                    f"{metric.label} needs images of {least}x{least} pixels or more, not {side}x{side}:"
                    " resize them, or leave the metric out"
                )

    @torch.no_grad()
    def update(
        self,
        images: Tensor,
        truth: Tensor | None = None,
        *,
        person: Tensor | Readings | None = None,
        pose: Tensor | Readings | None = None,
        cameras: Tensor | None = None,
        real: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Add generated images and return their scores (N,) by name, NaN for images that cannot be scored.

        A metric that has nothing to compare the images with ignores them.

        Args:
            images: (N, 3, S, S) in [-1, 1]
            truth: ground truth of the same shape
            person: images of the same people, for ID; by default the truth. Faces that were read before
                (`FaceReader.read`) are accepted in place of images
            pose: images at the same cameras, for POSE, or their faces; by default the truth
            cameras: EG3D labels (N, 25), for POSE[label]
            real: (M, 3, S, S) for FID and KID, M may be 0; by default the truth

        Raises InputError if the shapes of images and truth differ, or images are too small for a metric.
        """
        scores: dict[str, Tensor] = {}
        if truth is not None:
            if truth.shape != images.shape:
                raise InputError(f"images {tuple(images.shape)} and their truth {tuple(truth.shape)} differ")
            self.check_side(min(images.shape[-2:]))
            for metric in self.pairs:
                scores |= _scored(metric, images, truth)
        scores |= self._update_faces(images, truth, person, pose, cameras)
        real = truth if real is None else real
        if real is not None:
            self._update_sets(images, False)
            self._update_sets(real, True)
        return scores

    def _update_faces(
        self,
        images: Tensor,
        truth: Tensor | None,
        person: Tensor | Readings | None,
        pose: Tensor | Readings | None,
        cameras: Tensor | None,
    ) -> dict[str, Tensor]:
        wanted = {"ID": truth if person is None else person, "POSE": truth if pose is None else pose}
        pairs = [(metric, other) for metric in self.faces if (other := wanted[metric.symbol]) is not None]
        if not pairs and (cameras is None or not len(self.cameras)):
            return {}
        found = self.reader.read(images, cameras)
        # faces of a tensor are detected once for all metrics; `person` images have other cameras
        others = {
            id(other): self.reader.readings(other, None if other is person else cameras)
            for other in {id(o): o for _, o in pairs}.values()
        }
        scores: dict[str, Tensor] = {}
        for metric, other in pairs:
            scores |= _scored(metric, found, others[id(other)])
        if cameras is not None:
            for metric in self.cameras:
                scores |= _scored(metric, found, cameras)
        return scores

    @torch.no_grad()
    def add_real(self, images: Tensor) -> None:
        """Add real images (M, 3, S, S) in [-1, 1] for FID and KID only."""
        self._update_sets(images, True)

    def _update_sets(self, images: Tensor, real: bool) -> None:
        networks = {id(metric.network): metric.network for metric in self.sets}
        for network in networks.values() if len(images) else ():
            features = network(images)
            for metric in self.sets:
                if metric.network is network:
                    metric.update(images, real, features=features)

    def compute(self) -> dict[str, float]:
        """Means, distances between sets, and counts of faces not found, by name, over all processes. Metrics
        without enough images (one; for sets, two of each kind) are left out."""
        results: dict[str, float] = {}
        for metric in self._seen():
            results |= metric.results()
        return results

    def reset(self) -> None:
        """Reset all metrics."""
        for metric in self._metrics():
            metric.reset()

    def _metrics(self) -> list[PairMetric | SetMetric]:
        return [*self.pairs, *self.faces, *self.cameras, *self.sets]

    def _seen(self) -> list[PairMetric | SetMetric]:
        """The metrics with enough images; the same in all processes, as computing a result synchronises
        them."""
        metrics = self._metrics()
        counts = torch.tensor([metric.seen for metric in metrics], device=metrics[0].device)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(counts)
        return [metric for metric, count in zip(metrics, counts, strict=True) if count.min() >= metric.least]


def parse(name: str) -> tuple[str, str | None]:
    """Split `"LPIPS[vgg16]"` into metric and weights. Raises InputError for unknown metrics."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in ALL:
        raise InputError(f"{name!r} is not one of the metrics {', '.join(ALL)}")
    if match[2] is not None and match[1] not in CHOICES:
        raise InputError(f"{name}: {match[1]} has no weights to choose")
    return match[1], match[2]


def higher_is_better(name: str) -> bool | None:
    """Whether higher is better, for a name in `MetricSuite.compute`; None for other names."""
    symbol = name[: len(name) - len(name.lstrip(ascii_uppercase))]
    if symbol not in ALL:
        return None
    return False if name.endswith(COUNTS) else (PAIRED | FACES | SETS)[symbol].higher_is_better


def available() -> tuple[str, ...]:
    """Names of the metrics whose weights are available, with both AlexNet and VGG variants of LPIPS."""
    names = [
        name for name in ALL if name not in CHOICES or any(CATALOGUE[w].available for w in CHOICES[name])
    ]
    if CATALOGUE[VGG16].available and CATALOGUE[ALEXNET].available:
        names.insert(names.index("LPIPS") + 1, f"LPIPS[{VGG16}]")
    return tuple(names)


def _scored(metric: Any, images: Tensor | Readings, truth: Tensor | Readings) -> dict[str, Tensor]:
    """Add a pair to a metric and return the scores (N,) by column."""
    scores = metric.scores(images, truth)
    metric.update(images, truth, scores=scores)
    return dict(zip(metric.columns, scores.float().cpu().T, strict=True))
