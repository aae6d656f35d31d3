"""The request of `synthesize`: its command-line options."""

from dataclasses import dataclass, fields

import numpy as np

from core.errors import InputError
from generators.registry import RendererChoice
from lightning_modules.sampling.devices import Precision
from lightning_modules.sampling.settings import Sampling, StartingNoise


@dataclass(frozen=True)
class Request:
    """New views of the people on portraits.

    Args:
        model: a model folder
        out: the folder for the results
        portrait: one or more photos of one person, or folders of them
        portraits: a folder: a person for each photo, and for each folder of photos, in it
        align: crop portraits as EG3D does; otherwise take their middle square
        trajectory: orbit, yaw_sweep, pitch_sweep or spiral; orbit where no other option gives cameras
        views: how many cameras the trajectory has; 24, or as many as there are conditions
        yaw: the trajectory's amplitude sideways in degrees, instead of its default
        pitch: the trajectory's amplitude up and down in degrees, instead of its default
        cameras: instead of a trajectory, files of EG3D labels (.json, .npy) or photos, for their poses
        conditions: the renderer of the condition images (synthetic, eg3d:FOLDER, panohead:FOLDER, or a GAN's
            options), or a folder of one image for each view
        identity: the number of the person that the renderer shows; by default the seed
        noise: random, 3d-aware, or a folder of proxy images; by default 3d-aware where it is possible
        strength: of 3D-aware noise, 1 as in the paper; below it more of the proxies stays
        steps: denoising steps; the paper takes 100
        guidance: the weight of classifier-free guidance; 1 for none
        eta: DDIM's share of fresh noise at each step, 0 to 1
        seed: of all noise; the same seed gives the same views
        window: how many views of a path the networks see at a time
        overlap: how many views neighbouring windows of a longer path share; by default half a window
        chunk: how many images the VAE and the noise prior process at a time
        fps: views a second of the video
        precision: of the networks
        channels_last: keep the networks in channels-last memory
        compile: run the networks through torch.compile, which takes minutes first
        devices: how many GPUs to distribute people over, and windows of a path where people are fewer; by
            default all; without a GPU, so many processes or threads on the CPU
        overwrite: replace what an earlier run has left in the output folder
    """

    model: str
    out: str
    portrait: list[str] | None = None
    portraits: str | None = None
    align: bool = True
    trajectory: str | None = None
    views: int | None = None
    yaw: float | None = None
    pitch: float | None = None
    cameras: list[str] | None = None
    conditions: RendererChoice = "synthetic"
    identity: int | None = None
    noise: str | None = None
    strength: float = Sampling.strength
    steps: int = Sampling.steps
    guidance: float = Sampling.guidance
    eta: float = Sampling.eta
    seed: int = 0
    window: int = Sampling.window
    overlap: int | None = Sampling.overlap
    chunk: int = Sampling.chunk
    fps: float = 12.0
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    devices: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raise InputError on values out of range."""
        for name, least in {"fps": 0.1, "seed": 0, "identity": 0}.items():
            value = getattr(self, name)
            if value is not None and not least <= value < np.inf:
                raise InputError(f"--{name} {value:g}: give {least:g} or more")
        self.sampling(None)

    def sampling(self, noise: StartingNoise | None) -> Sampling:
        """The settings of sampling, from this starting noise."""
        names = [field.name for field in fields(Sampling) if field.name != "noise"]
        return Sampling(noise=noise, **{name: getattr(self, name) for name in names})
