"""Foreground masks of portraits by MediaPipe's selfie segmentation (Apache-2.0), a file inside its wheel.

The package `mediapipe` itself is neither installed nor imported: `ai-edge-litert` runs the network.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from core.errors import InputError
from core.packaged_files import PackagedFile, fetched
from portraits.pixels import Images

NAME = "mediapipe selfie segmentation"
NETWORK = PackagedFile(
    "mediapipe==0.10.14",
    "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
    "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
)
SIDE = 256  # side of the network's input in pixels


def check_segmentation() -> None:
    """Raise InputError if the network or its runtime is not available. It is downloaded on the first call."""
    missing = find_spec("ai_edge_litert") is None
    reason = "the package ai-edge-litert is not installed" if missing else fetched((NETWORK,))
    if reason:
        raise InputError(f"{NAME}: {reason}")


def foreground_masks(images: Images) -> Images:
    """Masks (N, S, S) uint8 of RGB portraits (N, S, S, 3) uint8: 255 on the person, soft at the border.
    Raises InputError if the network is not available."""
    check_segmentation()
    return np.stack([_mask(Image.fromarray(image)) for image in images])


def over_white(images: Images, masks: Images) -> Images:
    """Composite images (N, S, S, 3) over white by masks (N, S, S), all uint8."""
    alpha = masks[..., None].astype(np.float32) / 255
    return (images * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def _mask(image: Image.Image) -> Images:
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    network = _network()
    network.set_tensor(network.get_input_details()[0]["index"], pixels[None])
    network.invoke()
    mask = network.get_tensor(network.get_output_details()[0]["index"])[0, ..., 0]
    levels = Image.fromarray((mask.clip(0, 1) * 255).round().astype(np.uint8))
    return np.asarray(levels.resize(image.size, Image.Resampling.BILINEAR))


@cache
def _network() -> Any:
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(model_content=NETWORK.read(), num_threads=1)
    network.allocate_tensors()
    return network
