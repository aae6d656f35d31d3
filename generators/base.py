"""The interface of renderers of condition images, R(v, z) (section 3.3)."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Light = Literal["traced", "baked"]
"""How the built-in renderer computes light: by paths for each image, or once for a person."""

Place = Literal["studio", "anywhere"]
"""Where the built-in renderer's people are: in front of one plain backdrop, or indoors and outdoors."""


@dataclass(frozen=True)
class Renders:
    """Rendered views of one person: images (K, S, S, 3) uint8 sRGB; masks (K, S, S) uint8, 255 on the
    person."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]


class Renderer(Protocol):
    """Renders identity z at camera v (section 3.3)."""

    name: str

    def render(self, identity: int, labels: ArrayLike, size: int) -> Renders:
        """Render the person with the number `identity` at EG3D labels (K, 25), as squares of `size` pixels.
        The same number always gives the same person, expression and background."""
