"""Preparation of portraits for Zero-1-to-3: a square on white, optionally with the head centred as in its
demo.

Shape letters: S side of the network's images, K views.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from baselines.base import Request
from core.errors import InputError
from portraits.pixels import Images

Background = Literal["keep", "white", "centred"]

FOREGROUND = 127  # mask values above this are the person
SHARE = 200 / 256  # largest extent of a centred head, as a share of the square's side
WHITE = (255, 255, 255)
LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class Placement:
    """The position of a portrait in the network's square of side S: `scale` pixels of the square per pixel of
    the portrait, and the portrait's origin at (`left`, `top`). Sides are stored for the inverse."""

    scale: float
    left: float
    top: float
    portrait: int
    side: int

    def back(self, view: Image.Image) -> Image.Image:
        """Move a view from the square (S, S) to the head's position in the portrait, with white around it."""
        step = self.scale * self.portrait / self.side
        affine = (step, 0, self.left, 0, step, self.top)
        size = (self.side, self.side)
        return view.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC, fillcolor=WHITE)


def prepared(request: Request, background: Background, side: int) -> tuple[Image.Image, Placement | None]:
    """The first portrait as a square of `side`, and where it is placed, None where the whole portrait is the
    square. Raises InputError if the person's mask is missing or empty."""
    portrait = request.portraits[0]
    if background == "keep":
        return Image.fromarray(portrait).resize((side, side), LANCZOS), None
    if request.masks is None:
        raise InputError(
            f"{request.name}: Zero-1-to-3 removes the background with a mask, and none is given: give "
            "masks, or background=keep"
        )
    mask = request.masks[0]
    if background == "white":
        return Image.fromarray(on_white(portrait, mask)).resize((side, side), LANCZOS), None
    return centred(portrait, mask, side, request.name)


def on_white(portrait: Images, mask: NDArray[np.uint8]) -> Images:
    """The person of an image (S', S', 3) and a mask (S', S') on white."""
    share = mask[..., None] / 255.0
    return (portrait * share + 255 * (1 - share)).round().astype(np.uint8)


def centred(portrait: Images, mask: NDArray[np.uint8], side: int, name: str) -> tuple[Image.Image, Placement]:
    """As the published demo prepares an image: the foreground's bounding box, on white, reduced where it is
    larger than 200 of 256 pixels, in the middle of a white square. Raises InputError if the mask is
    empty."""
    foreground = mask > FOREGROUND
    rows, columns = np.flatnonzero(foreground.any(1)), np.flatnonzero(foreground.any(0))
    if not len(rows):
        raise InputError(f"{name}: the portrait's mask is empty")
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    cut = Image.fromarray(on_white(portrait, np.where(foreground, 255, 0).astype(np.uint8))).crop(box)
    scale = min(SHARE * side / max(cut.size), 1.0)
    size = (max(round(cut.width * scale), 1), max(round(cut.height * scale), 1))
    corner = ((side - size[0]) // 2, (side - size[1]) // 2)
    square = Image.new("RGB", (side, side), WHITE)
    square.paste(cut.resize(size, LANCZOS), corner)
    return square, Placement(
        scale, corner[0] - scale * box[0], corner[1] - scale * box[1], len(portrait), side
    )
