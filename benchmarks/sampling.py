"""`python -m benchmarks.sampling`: seconds per view of the whole pipeline, from portrait to images.

The baseline samples the same networks like the released sampler: at each step F_ref runs on a copy of the
portrait for each view, and F_cam runs in both passes and embeds its condition images again. Both are timed
alternately, so that noise affects them equally. The peak memory of short and long paths is measured in
separate processes.
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
class Inputs:
    """Inputs of the pipeline: a portrait (1, 1, 3, S, S) and conditions (1, K, 3, S, S), uint8 noise, as the
    content does not affect the time; and, if the model has S, the cameras (1, K, 25) of an orbit."""

    portrait: Tensor
    conditions: Tensor
    cameras: Tensor | None

    @classmethod
    def of(cls, pipeline: DiffPortrait3DPipeline, views: int) -> Self:
        """Inputs for `views` views of a pipeline."""
        draw, side = torch.Generator().manual_seed(0), pipeline.image_size
        images = torch.randint(256, (1, 1 + views, 3, side, side), dtype=torch.uint8, generator=draw)
        cameras = torch.from_numpy(trajectory("orbit", views))[None]
        return cls(images[:, :1], images[:, 1:], cameras if pipeline.noise_prior is not None else None)


@torch.no_grad()
def ours(pipeline: DiffPortrait3DPipeline, inputs: Inputs, steps: int) -> Tensor:
    """Views (K, 3, S, S) of the pipeline."""
    portrait, sampling = levels_to_pixels(inputs.portrait), Sampling(steps=steps, guidance=GUIDANCE)
    return pipeline.views(portrait, inputs.conditions, inputs.cameras, seeds=[0], sampling=sampling)[0]


@torch.no_grad()
def released(pipeline: DiffPortrait3DPipeline, inputs: Inputs, steps: int) -> Tensor:
    """Views (K, 3, S, S) of the baseline: F_ref and F_cam run for each view at each step."""
    portrait, conditions = levels_to_pixels(inputs.portrait), levels_to_pixels(inputs.conditions[0])
    latents = pipeline.encode(portrait)
    start = view_noise([0], range(len(conditions)), latents)
    if inputs.cameras is not None:
        proxies = pipeline.proxies(portrait, inputs.cameras)
        start = diffused(pipeline.encode(proxies), start, pipeline.scheduler)
    scheduler = ddim_scheduler(pipeline.scheduler, steps)
    networks = pipeline.denoiser, pipeline.appearance_reference
    parts = Parts(*networks, start[0], conditions.to(latents), latents)
    for timestep in scheduler.timesteps.tolist():
        parts.timestep = timestep
        parts.latents = scheduler.step(released_step(parts), timestep, parts.latents).prev_sample
    return pipeline.decode(parts.latents)


def clock() -> Callable[[], float]:
    """A function that returns seconds: processor time on the CPU, which other processes do not affect, and
    wall time after synchronisation on a GPU."""
    if not torch.cuda.is_available():
        return time.process_time

    def synchronized() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronized


def peak_memory(model: str, views: int, steps: int) -> float:
    """The peak memory in GiB of a path of `views` views, networks included, measured in another process."""
    command = [sys.executable, "-m", "benchmarks.sampling", f"--model={model}", f"--steps={steps}"]
    done = subprocess.run([*command, f"--only={views}"], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_memory(pipeline: DiffPortrait3DPipeline, views: int, steps: int) -> float:
    """The peak memory in GiB of a path of `views` views, networks included, measured in this process."""
    ours(pipeline, Inputs.of(pipeline, views), steps)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def benchmark(
    model: str = "checkpoints/mini", steps: int = 10, rounds: int = 3, only: int | None = None
) -> None:
    """Print the seconds per view of both samplers and their ratio, then peak memory by the length of the
    path.

    Args:
        model: a model folder with all parts.
        steps: denoising steps.
        rounds: timings of each sampler, after one warm-up.
        only: print only the peak memory of a path of this number of views.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = DiffPortrait3DPipeline.from_pretrained(model).to(device)
    if only is not None:
        print(measure_memory(pipeline, only, steps))
        return
    views, now, samplers = PATHS[0], clock(), {"released sampler": released, "pipeline": ours}
    inputs = Inputs.of(pipeline, views)
    spent = dict.fromkeys(samplers, 0.0)
    for turn in tqdm(range(rounds + 1), desc="sampling", unit="round"):
        for name, sampler in samplers.items():
            start = now()
            sampler(pipeline, inputs, steps)
            spent[name] += now() - start if turn else 0.0  # the first round is a warm-up
    for name, seconds in spent.items():
        print(f"{name}: {seconds / rounds / views:.3f} s per view ({steps} steps, {views} views, {device})")
    print(f"released sampler / pipeline: {spent['released sampler'] / spent['pipeline']:.2f}")
    for path in PATHS:
        print(f"{path} views: {peak_memory(model, path, 2):.2f} GiB at most")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Invalid input ends in one line."""
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(benchmark)
    settings = parser.parse_args(arguments)
    with one_line():
        benchmark(**settings.as_dict())


if __name__ == "__main__":
    main()
