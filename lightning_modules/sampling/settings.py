"""Settings of sampling."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from core.errors import InputError

StartingNoise = Literal["random", "3d-aware"]
Solver = Literal["ddim", "unipc", "dpm++", "lcm"]
Spacing = Literal["leading", "trailing", "linspace"]
TIMESTEPS = 1000  # number of timesteps of Stable Diffusion's noise schedule
VAE, PREVIEW = "vae", "preview"  # decoders besides a folder of diffusers' AutoencoderTiny


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
        prompt: text for F's text attention, which the paper leaves empty.
        solver: "ddim", "unipc", "dpm++" (DPM-Solver++) or "lcm" (with an LCM-LoRA); by default DDIM, or the
            model's own scheduler if it has another one.
        spacing: the timesteps of a solver: "leading" as in the released sampler, "trailing" from the last
            timestep down, or "linspace"; "lcm" has its own.
        guidance_low, guidance_high: the timesteps, 0 to 1000, between which there is guidance; elsewhere the
            unconditional pass is left out.
        one_batch: run the conditional and the unconditional pass in one batch.
        deep_every: F's deep layers run at every n-th step, and in between only its outer blocks (DeepCache).
        reference_timestep: a fixed timestep of F_ref, whose features are then computed once for a portrait;
            by default as it was trained.
        decoder: decoder of latents: "vae"; "preview", the model's own small one; or a folder of diffusers'
            AutoencoderTiny.

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
    prompt: str = ""
    solver: Solver | None = None
    spacing: Spacing = "leading"
    guidance_low: int = 0
    guidance_high: int = TIMESTEPS
    one_batch: bool = False
    deep_every: int = 1
    reference_timestep: int | None = None
    decoder: str = VAE

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and (not _is(Integral, value) or value < least):
                raise InputError(f"{name} {value!r}: give a whole number, {least} or more")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in get_args(choices) and (value is not None or name == "spacing"):
                raise InputError(f"{name} {value!r}: choose from {', '.join(get_args(choices))}")
        for name in REAL:
            if not _is(Real, getattr(self, name)):
                raise InputError(f"{name} {getattr(self, name)!r}: give a number")
        if not isinstance(self.prompt, str):
            raise InputError(f"prompt {self.prompt!r}: give one text, which all views share")
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta {self.eta:g}: give 0 to 1")
        if not 0 < self.strength <= 1:
            raise InputError(f"strength {self.strength:g}: give more than 0, and at most 1")
        if not math.isfinite(self.guidance):
            raise InputError(f"guidance {self.guidance:g}: give a number; 1 is none")
        if self.guidance_low > self.guidance_high:
            raise InputError(
                f"guidance_low {self.guidance_low} is above guidance_high {self.guidance_high}: swap them"
            )
        if self.reference_timestep is not None and self.reference_timestep >= TIMESTEPS:
            raise InputError(f"reference_timestep {self.reference_timestep}: give 0 to {TIMESTEPS - 1}")

    def guides(self, timestep: float) -> bool:
        """Whether there is guidance at a timestep."""
        return self.guidance != 1 and self.guidance_low <= timestep <= self.guidance_high


def _is(kind: type, value: object) -> bool:
    """Whether a value is a number of this kind; booleans are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


REAL = ("guidance", "eta", "strength")
LEAST = {
    "steps": 1,
    "window": 1,
    "chunk": 1,
    "overlap": 0,
    "guidance_low": 0,
    "guidance_high": 0,
    "deep_every": 1,
    "reference_timestep": 0,
}
CHOICES: dict[str, Any] = {"noise": StartingNoise, "solver": Solver, "spacing": Spacing}
PAPER = Sampling()
