"""Deterministic weights made from names and shapes, with which the goldens were computed."""

import json
import math
import zlib
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from generators.gan.layers import binomial_filter
from lightning_modules.networks.cross_view import sinusoids

GENERATOR = "decoder."
EQUALISED = ("linear.weight", "output_layer.0.weight", "output_layer.2.weight")  # scaled at run time
FOLDER = Path(__file__).parent


def key_list(which: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released networks, `full` as published or `small`, with fewer channels."""
    return {
        name: tuple(shape) for name, shape in json.loads((FOLDER / f"keys_{which}.json").read_text()).items()
    }


def golden(which: str = "small") -> dict[str, Tensor]:
    """Inputs and outputs of public code: of the release with `weights(key_list("small"))`, of the generators
    (`eg3d`, `panohead`) with `gan_weights`, of the baselines with `weights` (`zero123`) or `baseline_weights`
    (`triplanenet`, `goae` with contrast 0.3)."""
    return load_file(FOLDER / f"golden_{which}.safetensors")


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A tensor for each name: noise seeded by the name, scaled to keep activations near 1."""
    return {name: _tensor(name, shape) for name, shape in shapes.items()}


def gan_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The same for StyleGAN2 generators, which scale unit-variance weights at run time."""
    return {name: _gan_tensor(name, shape) for name, shape in shapes.items()}


def baseline_weights(shapes: dict[str, tuple[int, ...]], contrast: float = 1.0) -> dict[str, Tensor]:
    """The same for the encoders of TriPlaneNet and GOAE. Names below `decoder.` are their EG3D generator's,
    whose densities and colours are multiplied by `contrast`."""
    return {name: _baseline_tensor(name, shape, shapes.keys(), contrast) for name, shape in shapes.items()}


def _baseline_tensor(name: str, shape: tuple[int, ...], names: Collection[str], contrast: float) -> Tensor:
    if name.startswith(GENERATOR):
        weight = _gan_tensor(name.removeprefix(GENERATOR), shape)
        return contrast * weight if name.startswith(GENERATOR + "decoder.") else weight
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name == "latent_avg" or name.endswith("running_mean"):
        return 0.1 * noise
    if name.endswith("running_var"):
        return torch.exp(0.2 * noise)
    if name.endswith("logit_scale"):  # some are above the clamp at log 100
        return math.log(10) + noise
    if name.endswith(EQUALISED):
        return noise
    if len(shape) == 1 and name.endswith(".weight") and name.removesuffix("weight") + "bias" not in names:
        return 0.25 + 0.05 * noise  # a PReLU's slopes
    return _tensor(name, shape)


def _gan_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("resample_filter"):
        return binomial_filter()
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("affine.bias"):
        return 1 + 0.1 * noise
    if name.endswith((".bias", ".w_avg")):
        return 0.02 * noise
    if name.endswith("noise_strength"):
        return 0.1 * noise
    return (
        4 * noise if name.startswith("decoder.") else noise
    )  # contrast, so that the order of depths matters


def _tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith(".pe"):
        return sinusoids(shape[1], shape[2])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) > 1:
        return noise / math.sqrt(math.prod(shape[1:]))
    if name.endswith(".weight"):  # a normalisation's gain
        return 1 + 0.1 * noise
    return 0.02 * noise
