"""Shared functions of TriPlaneNet and GOAE: preparation of portraits, and rendering of EG3D's planes.

Shape letters: N portraits, K views, S image side.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from baselines.base import Cameras, Request
from core.errors import InputError
from generators.gan.generator import CHUNK, Generator, Identity, Rendering, Views
from generators.volume import RaySampling
from portraits.pixels import Images, to_images, to_pixels


def crop(request: Request, side: int) -> Image.Image:
    """The first portrait, enlarged or reduced to a square of `side`."""
    image = Image.fromarray(request.portraits[0])
    return image if image.width == side else image.resize((side, side), Image.Resampling.LANCZOS)


def pixels_of(image: Image.Image, device: str | torch.device) -> Tensor:
    """An image as pixels (1, 3, S, S) in [-1, 1]."""
    return to_pixels(np.array(image))[None].contiguous().to(device)


def halved(x: Tensor, side: int) -> Tensor:
    """Images (N, C, S', S') averaged over squares down to `side`."""
    return x if x.shape[-1] == side else F.adaptive_avg_pool2d(x, side)


def rendering(generator: Generator, resolution: int, depths: int = 1) -> Rendering:
    """How views are rendered: a side of the rendered features (0: the generator's), and how many times the
    generator's number of depths a ray has. Nothing is drawn at random."""
    settings = generator.settings
    sampling = RaySampling(depths * settings.coarse, depths * settings.fine, CHUNK)
    return Rendering(resolution or None, sampling, follow=True)


def each_view(generator: Generator, identity: Identity, cameras: Cameras, how: Rendering) -> Iterator[Views]:
    """The views of one person at EG3D labels (K, 25), one at a time."""
    labels = torch.from_numpy(cameras).unsqueeze(0).to(identity.planes.device)
    return generator.each_view(identity, labels, how)


def view_images(generator: Generator, identity: Identity, cameras: Cameras, how: Rendering) -> Images:
    """The images (K, S, S, 3) of one person at EG3D labels (K, 25)."""
    return np.stack([to_images(view.image[0, 0]) for view in each_view(generator, identity, cameras, how)])


def check_styles(generator: Generator, count: int, width: int, where: str) -> None:
    """Raise InputError, naming `where`, unless a generator takes `count` styles of `width` numbers."""
    wanted = generator.backbone.synthesis.styles, generator.architecture.style
    if wanted != (count, width):
        raise InputError(
            f"{where}: the encoder makes {count} styles of {width} numbers, the generator takes {wanted[0]} "
            f"of {wanted[1]}"
        )
