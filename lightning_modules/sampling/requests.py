"""The request of `synthesize`: its command-line options."""

from dataclasses import dataclass, fields

import numpy as np

from core.engine import EngineOptions
from core.errors import InputError
from generators.registry import STUDIO, RendererChoice
from lightning_modules.sampling.devices import Precision
from lightning_modules.sampling.export_formats import Format
from lightning_modules.sampling.settings import Sampling, Solver, Spacing, StartingNoise


@dataclass(frozen=True)
class Request(EngineOptions):
    """Generate new views of people from portraits.

    Args:
        model: a model folder
        out: the folder for the results, or a URL that the finished folder is moved to (s3://, gs://, file://)
        staging: for a URL, the folder to work in, which workers of a cluster have to see as well
        portrait: one or more photos of one person, or folders of them
        portraits: a folder, in which each photo and each folder of photos is one person
        align: crop portraits as EG3D does; otherwise use the central square
        trajectory: orbit (the default), yaw_sweep, pitch_sweep or spiral
        views: number of views; by default 24, or one for each condition image
        yaw: horizontal amplitude of the trajectory in degrees, instead of its default
        pitch: vertical amplitude of the trajectory in degrees, instead of its default
        cameras: files of EG3D labels (.json, .npy), or photos to estimate cameras from; instead of a
            trajectory
        conditions: the renderer of the condition images (studio, synthetic, baked, eg3d:FOLDER,
            panohead:FOLDER, or a GAN's options), or a folder with one image for each view
        identity: number of the rendered person; by default the seed
        noise: random, 3d-aware, or a folder of proxy images; by default 3d-aware if possible
        strength: strength of 3D-aware noise, 1 in the paper; below 1, more of the proxies is kept
        steps: denoising steps; 100 in the paper
        guidance: weight of classifier-free guidance; 1 for none
        eta: DDIM's share of fresh noise at each step, 0 to 1
        seed: seed of all noise; the same seed gives the same views
        window: number of views that are denoised together
        overlap: number of views shared by neighbouring windows of a longer path; by default half a window
        chunk: images that the VAE and the noise prior process at a time
        prompt: text for F's text attention, which the paper leaves empty
        solver: ddim, unipc, dpm++ (DPM-Solver++) or lcm (with an LCM-LoRA); by default DDIM, or the model's
            own scheduler if it has another one
        spacing: a solver's timesteps: leading as in the released sampler, trailing from the last timestep
            down, or linspace
        guidance_low: the lowest timestep, 0 to 1000, with guidance; below, the unconditional pass is left out
        guidance_high: the highest timestep with guidance
        one_batch: run the conditional and the unconditional pass in one batch
        deep_every: F's deep layers run at every n-th step, and in between only its outer blocks (DeepCache)
        reference_timestep: a fixed timestep of F_ref, whose features are then computed once for a portrait;
            by default as it was trained
        decoder: vae; preview, the model's own small decoder; or a folder of diffusers' AutoencoderTiny
        lora: LoRAs for Stable Diffusion 1.5 on F, each a safetensors file, or FILE:WEIGHT
        fps: frames per second of the video
        precision: precision of the networks
        channels_last: keep the networks in channels-last memory
        compile: compile the networks with torch.compile, which takes minutes at first
        device: cpu, cuda, cuda:N, or mps for Apple's GPU; by default the GPUs of NVIDIA's, if any
        devices: number of GPUs to distribute people over, and windows of a path if there are fewer people; by
            default all; without a GPU, number of CPU processes or threads
        export: 3D formats to write as well, into `export/` of each person, as `export-3d` does
        overwrite: replace the results of an earlier run in the output folder
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
    conditions: RendererChoice = STUDIO
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
    prompt: str = Sampling.prompt
    solver: Solver | None = Sampling.solver
    spacing: Spacing = Sampling.spacing
    guidance_low: int = Sampling.guidance_low
    guidance_high: int = Sampling.guidance_high
    one_batch: bool = Sampling.one_batch
    deep_every: int = Sampling.deep_every
    reference_timestep: int | None = Sampling.reference_timestep
    decoder: str = Sampling.decoder
    lora: list[str] | None = None
    fps: float = 12.0
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    device: str | None = None
    devices: int | None = None
    export: list[Format] | None = None
    staging: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for values out of range."""
        super().__post_init__()
        for name, least in {"fps": 0.1, "seed": 0, "identity": 0}.items():
            value = getattr(self, name)
            if value is not None and not least <= value < np.inf:
                raise InputError(f"--{name} {value:g}: give {least:g} or more")
        self.sampling(None)

    def sampling(self, noise: StartingNoise | None) -> Sampling:
        """The settings of sampling with this starting noise."""
        names = [field.name for field in fields(Sampling) if field.name != "noise"]
        return Sampling(noise=noise, **{name: getattr(self, name) for name in names})
