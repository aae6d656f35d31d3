"""`python -m benchmarks.sampling`: what a view costs, from the portrait to the image.

The whole pipeline against the same networks sampled the released way, round and round in one run: there F_ref
runs at every step on a copy of the portrait for each view, F_cam runs in both passes and sees its condition
images anew. And the peak memory of short and long paths, each in a process of its own.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from tqdm import tqdm

from benchmarks.denoising import Parts, released_step
from core.errors import one_line
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.schedulers import ddim_scheduler
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.starting_noise import diffused, view_noise
from lightning_modules.sampling.trajectories import trajectory
from portraits.pixels import levels_to_pixels

PATHS = (8, 24, 96)  # views
GUIDANCE = 3.0


@dataclass(frozen=True)
class Given:
    """A portrait (1, 1, 3, S, S) and conditions (1, K, 3, S, S), uint8 noise: what they show costs nothing;
    and the cameras (1, K, 25) of an orbit, where S is there to see it."""

    portrait: Tensor
    conditions: Tensor
    cameras: Tensor | None

    @classmethod
    def of(cls, pipeline: DiffPortrait3DPipeline, views: int) -> Self:
        """What a pipeline is given for `views` views."""
        draw, side = torch.Generator().manual_seed(0), pipeline.image_size
        images = torch.randint(256, (1, 1 + views, 3, side, side), dtype=torch.uint8, generator=draw)
        cameras = torch.from_numpy(trajectory("orbit", views))[None]
        return cls(images[:, :1], images[:, 1:], cameras if pipeline.noise_prior is not None else None)


@torch.no_grad()
def ours(pipeline: DiffPortrait3DPipeline, given: Given, steps: int) -> Tensor:
    """Views (K, 3, S, S) by the pipeline."""
    portrait, sampling = levels_to_pixels(given.portrait), Sampling(steps=steps, guidance=GUIDANCE)
    return pipeline.views(portrait, given.conditions, given.cameras, seeds=[0], sampling=sampling)[0]


@torch.no_grad()
def released(pipeline: DiffPortrait3DPipeline, given: Given, steps: int) -> Tensor:
    """Views (K, 3, S, S) by the released sampler's steps: F_ref and F_cam anew for each view and step."""
    portrait, conditions = levels_to_pixels(given.portrait), levels_to_pixels(given.conditions[0])
    latents = pipeline.encode(portrait)
    start = view_noise([0], range(len(conditions)), latents)
    if given.cameras is not None:
        proxies = pipeline.proxies(portrait, given.cameras)
        start = diffused(pipeline.encode(proxies), start, pipeline.scheduler)
    scheduler = ddim_scheduler(pipeline.scheduler, steps)
    networks = pipeline.denoiser, pipeline.appearance_reference
    parts = Parts(*networks, start[0], conditions.to(latents), latents)
    for timestep in scheduler.timesteps.tolist():
        parts.timestep = timestep
        parts.latents = scheduler.step(released_step(parts), timestep, parts.latents).prev_sample
    return pipeline.decode(parts.latents)


def clock() -> Callable[[], float]:
    """Seconds: of the processor on a CPU, where others may be at work, and of the wall on a GPU."""
    if not torch.cuda.is_available():
        return time.process_time

    def synchronized() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronized


def peak_memory(model: str, views: int, steps: int) -> float:
    """GiB that a path of that many views takes at most, in a process of its own, networks included."""
    command = [sys.executable, "-m", "benchmarks.sampling", f"--model={model}", f"--steps={steps}"]
    done = subprocess.run([*command, f"--only={views}"], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_memory(pipeline: DiffPortrait3DPipeline, views: int, steps: int) -> float:
    """The same of this process."""
    ours(pipeline, Given.of(pipeline, views), steps)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def benchmark(
    model: str = "checkpoints/mini", steps: int = 10, rounds: int = 3, only: int | None = None
) -> None:
    """Prints seconds a view and their ratio, then memory by the length of the path.

    Args:
        model: a model folder with all parts.
        steps: denoising steps.
        rounds: how often both ways are measured, in turn.
        only: print the peak memory of a path of so many views, and nothing else.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = DiffPortrait3DPipeline.from_pretrained(model).to(device)
    if only is not None:
        print(measure_memory(pipeline, only, steps))
        return
    views, now, ways = PATHS[0], clock(), {"released way": released, "pipeline": ours}
    given = Given.of(pipeline, views)
    spent = dict.fromkeys(ways, 0.0)
    for turn in tqdm(range(rounds + 1), desc="sampling", unit="round"):
        for name, way in ways.items():
            start = now()
            way(pipeline, given, steps)
            spent[name] += now() - start if turn else 0.0  # the first round warms up
    for name, seconds in spent.items():
        print(f"{name}: {seconds / rounds / views:.3f} s a view ({steps} steps, {views} views, {device})")
    print(f"released way / pipeline: {spent['released way'] / spent['pipeline']:.2f}")
    for path in PATHS:
        print(f"{path} views: {peak_memory(model, path, 2):.2f} GiB at most")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A user's mistake ends in one line."""
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(benchmark)
    settings = parser.parse_args(arguments)
    with one_line():
        benchmark(**settings.as_dict())


if __name__ == "__main__":
    main()
