"""How views are sampled."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from core.errors import InputError

StartingNoise = Literal["random", "3d-aware"]


@dataclass(frozen=True)
class Sampling:
    """How views are sampled; the defaults are the paper's (4, A.2).

    `noise`: where sampling starts, "random" or "3d-aware"; None is the second where there are S or proxies.
    `strength`: of that noise; 1 is the paper's, below it proxies are noised less and only that share of the
    steps is sampled, so that more of them stays. `eta`: DDIM's, 0 for none of its noise. `window`,
    `overlap`: how many views of a path V sees at a time, and how many of them neighbouring windows share,
    None for half. `chunk`: how many images the VAE and S take at a time.
    """

    steps: int = 100
    guidance: float = 3.0
    eta: float = 0.0
    noise: StartingNoise | None = None
    strength: float = 1.0
    window: int = 8
    overlap: int | None = None
    chunk: int = 8

    def __post_init__(self) -> None:
        """Raises InputError on settings that no sampling has."""
        for name, least in (("steps", 1), ("window", 1), ("chunk", 1), ("overlap", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise InputError(f"{name} {value!r}: give a whole number, {least} or more")
        if self.noise is not None and self.noise not in get_args(StartingNoise):
            raise InputError(f"noise {self.noise!r}: it is one of {', '.join(get_args(StartingNoise))}")
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta {self.eta:g}: give 0 to 1")
        if not 0 < self.strength <= 1:
            raise InputError(f"strength {self.strength:g}: give more than 0, and at most 1")
        if not math.isfinite(self.guidance):
            raise InputError(f"guidance {self.guidance:g}: give a number; 1 is none")


PAPER = Sampling()
