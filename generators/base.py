"""R(v, z): what every renderer of other people's heads can do."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Renders:
    """images (K, S, S, 3) uint8 sRGB; masks (K, S, S) uint8, 255 where the person is."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]


class Renderer(Protocol):
    """A source of condition images: identity z at camera v (section 3.3)."""

    name: str

    def render(self, identity: int, labels: ArrayLike, size: int) -> Renders:
        """The person numbered `identity` from EG3D labels (K, 25), as squares of side `size`. The same number
        is the same person, expression and place; nothing else is random."""
