"""Settings of sampling."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from core.errors import InputError

StartingNoise = Literal["random", "3d-aware"]


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling; the defaults are the paper's (4, A.2).

    Args:
        steps: denoising steps.
        guidance: weight of classifier-free guidance; 1 for none.
        eta: DDIM's share of fresh noise at each step, 0 to 1.
        noise: starting noise; by default "3d-aware" if there is S or proxies are given, otherwise "random".
        strength: strength of 3D-aware noise, 1 in the paper. Below 1, proxies are noised less, and only that
            share of the steps is sampled, which keeps more of the proxies.
        window: number of views of a path that V attends over at a time.
        overlap: number of views shared by neighbouring windows; by default half a window.
        chunk: images that the VAE and S process at a time.

    Raises InputError for values out of range.
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
        """Check the ranges."""
        for name, least in (("steps", 1), ("window", 1), ("chunk", 1), ("overlap", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise InputError(f"{name} {value!r}: give a whole number, {least} or more")
        if self.noise is not None and self.noise not in get_args(StartingNoise):
            raise InputError(f"noise {self.noise!r}: choose from {', '.join(get_args(StartingNoise))}")
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta {self.eta:g}: give 0 to 1")
        if not 0 < self.strength <= 1:
            raise InputError(f"strength {self.strength:g}: give more than 0, and at most 1")
        if not math.isfinite(self.guidance):
            raise InputError(f"guidance {self.guidance:g}: give a number; 1 is none")


PAPER = Sampling()
