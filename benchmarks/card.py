"""`python -m benchmarks.card`: time and memory on a GPU at Stable Diffusion 1.5's size, without data.

Measures a guided denoising step and the released sampler's, the whole pipeline from portrait to views, and
one training step of each stage and of S with the settings for 24 GB. All networks are real, with random
weights. The floor of a line is the time of its own floating-point operations at the GPU's rate of matrix
products.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.denoising import SIZES, Size, matrix_rate, steps
from benchmarks.denoising import build as build_parts
from benchmarks.sampling import Inputs, ours
from core.devices import CPU, CUDA
from core.errors import InputError, one_line
from core.simulated_device import autocast
from lightning_modules.evaluation.cost import measured
from lightning_modules.memory import RUNS, config_flags, training_row, training_run
from lightning_modules.sampling.devices import check_precision
from lightning_modules.step_memory import TrainingRun, build, unloaded_pipeline
from lightning_modules.unloaded import training_loss

GIB, TERA = 2**30, 1e12
Run = Callable[[], object]
TITLES = ("", "seconds", "TFLOP", "floor / time", "GiB at most")


@dataclass(frozen=True)
class Job:
    """What is measured.

    Args:
        device: "cuda", or "cpu" for a small size.
        dtype: precision of the networks in sampling.
        size: size of F in the guided step.
        prior: settings of S.
        stages: the training runs.
        views: number of views in the guided step and in the pipeline.
        steps: number of denoising steps of the pipeline.
        rounds: number of timings of each line, of which the best is reported.
        backbone: a folder from whose configs the pipeline is built; None for Stable Diffusion 1.5's.
    """

    device: str
    dtype: torch.dtype
    size: Size
    prior: dict[str, Any]
    stages: Sequence[TrainingRun]
    views: int = 8
    steps: int = 50
    rounds: int = 3
    backbone: str | None = None


@dataclass(frozen=True)
class Line:
    """A line of the table: seconds of the fastest run, its floating-point operations, and the most memory in
    bytes, weights included."""

    seconds: float
    operations: int
    peak: int


def full_size(views: int, denoising_steps: int, rounds: int) -> Job:
    """Everything at Stable Diffusion 1.5's size."""
    stages = [training_run(config_flags(files)) for files in RUNS]
    prior = stages[-1].settings["prior"]
    return Job(CUDA, torch.float16, SIZES["sd15"], prior, stages, views, denoising_steps, rounds)


def measure(run: Run, device: str, rounds: int) -> Line:
    """A line. The first run is a warm-up, in which operations are counted."""
    # The counter has no formula for the CPU's fused attention.
    kernels = sdpa_kernel(SDPBackend.MATH) if device == CPU else nullcontext()
    with kernels, FlopCounterMode(display=False) as counter:
        run()
    costs = []
    for _ in range(rounds):
        with measured(device) as cost:
            run()
        costs.append(cost)
    best = min(cost.seconds for cost in costs)
    return Line(best, counter.get_total_flops(), max(cost.peak_bytes for cost in costs))


def guided_steps(job: Job) -> dict[str, Run]:
    """Guided denoising steps, by name."""
    parts = build_parts(job.size, job.views, job.device, job.dtype, channels_last=True)
    with torch.no_grad():
        found = steps(parts)
    return {f"guided step of {job.views} views, {name}": torch.no_grad()(run) for name, run in found.items()}


def whole_pipeline(job: Job) -> dict[str, Run]:
    """Views of a portrait by all parts, from image to images."""
    with torch.device(job.device):
        pipeline = unloaded_pipeline(job.dtype, job.prior, job.backbone)
    inputs = Inputs.of(pipeline, job.views)
    return {f"{job.views} views in {job.steps} steps": lambda: ours(pipeline, inputs, job.steps)}


def training_step(run: TrainingRun, device: str) -> Run:
    """A training step of one batch: forward, backward and optimiser."""
    module, batch = build(run, torch.device(device))
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = module.learning.configure(trained, max_steps=1)["optimizer"]

    def step() -> None:
        with autocast(device, run.dtype):
            loss = training_loss(module, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def groups(job: Job) -> Iterator[dict[str, Run]]:
    """The runs by name, those that share networks together; each group is built when its turn comes."""
    yield guided_steps(job)
    yield whole_pipeline(job)
    for stage in job.stages:
        yield {training_row(stage)[0]: training_step(stage, job.device)}


def lines(job: Job) -> Iterator[tuple[str, Line]]:
    """The table's lines, one after the other behind a progress bar."""
    with tqdm(total=2 + len(job.stages), desc="measuring", unit="group") as bar:
        for runs in groups(job):
            while runs:  # a group's networks go before those of the next are made
                name = next(iter(runs))
                yield name, measure(runs.pop(name), job.device, job.rounds)
            gc.collect()
            bar.update()


def report(job: Job) -> None:
    """Measure and print everything. Raises InputError if the device does not run the precision."""
    check_precision(str(job.dtype).removeprefix("torch."), [job.device])  # type: ignore[arg-type]
    began = time.perf_counter()
    rate = matrix_rate(job.device, job.dtype)
    name = torch.cuda.get_device_name() if job.device == CUDA else job.device
    print(f"{name}, {job.dtype}, matrices at {rate / TERA:.2f} TFLOP/s, PyTorch {torch.__version__}\n")
    print("| " + " | ".join(TITLES) + " |")
    print("|---" + "|---:" * (len(TITLES) - 1) + "|")
    for title, line in lines(job):
        share = line.operations / rate / line.seconds
        cells = [f"{line.seconds:.3f}", f"{line.operations / TERA:.3g}", f"{share:.0%}"]
        print("| " + " | ".join([title, *cells, f"{line.peak / GIB:.1f}"]) + " |", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def benchmark(views: int = 8, steps: int = 50, rounds: int = 3) -> None:
    """Print the table of this machine's GPU. Raises InputError without one.

    Args:
        views: views of the guided step and of the pipeline.
        steps: denoising steps of the pipeline.
        rounds: timings of each line, of which the best is reported.
    """
    if min(views, steps, rounds) < 1:
        raise InputError(f"--views {views} --steps {steps} --rounds {rounds}: give 1 or more of each")
    if not torch.cuda.is_available():
        raise InputError("benchmarks.card: PyTorch finds no GPU; make benchmark-cpu measures on a CPU")
    report(full_size(views, steps, rounds))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Invalid input ends in one line."""
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(benchmark)
    settings = parser.parse_args(arguments)
    with one_line():
        benchmark(**settings.as_dict())


if __name__ == "__main__":
    main()
