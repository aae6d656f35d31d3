"""`python -m benchmarks.evaluation`: the time that an evaluation takes to sample and to score.

Views of one frame are sampled and scored as by `lightning_modules.evaluate`. Times are wall-clock seconds on
a GPU and processor seconds on a CPU. Sampling is measured over a few steps and extrapolated to `steps`, as
all steps cost the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from tqdm import tqdm

from benchmarks.sampling import clock
from core.devices import find_device
from core.errors import InputError, one_line
from lightning_modules.evaluation.sampling import condition_pixels, reference_pixels
from lightning_modules.evaluation.subjects import Subject, SubjectSettings, find_subjects
from lightning_modules.evaluation.systems import ModelChoice, open_model
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from metrics.suite import MetricSuite, available
from portraits.pixels import to_pixels

MORE_STEPS, STEPS = 3, 1  # measured numbers of steps
GROUPS = {
    "PSNR, SSIM": ("PSNR", "SSIM"),
    "LPIPS, DISTS": ("LPIPS", "DISTS"),
    "ID, POSE": ("ID", "POSE"),
    "FID, KID": ("FID", "KID"),
}


def seconds(run: Callable[[], object]) -> float:
    """The time of a second call; the first one warms up."""
    run()
    now = clock()
    began = now()
    run()
    return now() - began


def sampling_seconds(pipeline: DiffPortrait3DPipeline, sampling: Sampling, subject: Subject) -> float:
    """Seconds for sampling all views of a subject."""
    references = reference_pixels(subject, None)[None]
    conditions = condition_pixels(subject, None, None)[None]
    cameras = torch.from_numpy(subject.cameras)[None]

    def sample(steps: int) -> None:
        pipeline.views(
            references,
            conditions if pipeline.view_control is not None else None,
            cameras if pipeline.noise_prior is not None else None,
            seeds=[0],
            count=len(subject.truths),
            sampling=replace(sampling, steps=steps),
        )

    runs = tqdm((STEPS, MORE_STEPS), desc="sampling", unit="run")
    short, long = (seconds(partial(sample, steps)) for steps in runs)
    per_step = (long - short) / (MORE_STEPS - STEPS)
    return short + (sampling.steps - STEPS) * per_step


def scoring_seconds(subject: Subject, device: str) -> dict[str, float]:
    """Seconds for scoring all views of a subject, by group of metrics."""
    truth = to_pixels(subject.truths).to(device)
    cameras = torch.from_numpy(subject.cameras)
    measured = {}
    for name, metrics in tqdm(GROUPS.items(), desc="scoring", unit="group"):
        chosen = [metric for metric in metrics if metric in available()]
        if chosen:
            suite = MetricSuite(chosen).to(device)
            measured[name] = seconds(partial(suite.update, truth, truth, cameras=cameras))
    return measured


def table(sampling: float, scoring: dict[str, float], views: int) -> str:
    """Seconds per view and fractions of the total, as Markdown."""
    total = sampling + sum(scoring.values())
    rows = {"sampling": sampling, "scoring": sum(scoring.values())}
    rows |= {f"of it {name}": value for name, value in scoring.items()}
    lines = ["| | seconds per view | share |", "|---|---:|---:|"]
    lines += [f"| {name} | {value / views:.3f} | {value / total:.1%} |" for name, value in rows.items()]
    return "\n".join(lines)


def benchmark(
    model: str = "checkpoints/mini",
    shards: str = "shards/built/synthetic",
    views: int = 8,
    steps: int = 100,
    device: str | None = None,
) -> str:
    """The table of times for views of the first test frame.

    Args:
        model: a model folder
        shards: a built folder of its image size
        views: number of views
        steps: number of denoising steps of the evaluation; 100 in the paper
        device: cpu or cuda
    """
    if steps <= MORE_STEPS:
        raise InputError(f"--steps {steps}: give more than {MORE_STEPS}")
    device = find_device(device)
    subjects = find_subjects(SubjectSettings(shards, frames=1, views=views))
    (subject,) = subjects.read(subjects.keys)
    pipeline = open_model(ModelChoice(Path(model))).to(device)
    sampling = sampling_seconds(pipeline, Sampling(steps=steps), subject)
    scoring = scoring_seconds(subject, device)
    side = subject.truths.shape[1]
    title = f"{len(subject.truths)} views of {side}x{side} pixels, {steps} steps, on {device}:"
    return f"{title}\n\n{table(sampling, scoring, len(subject.truths))}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.evaluation", description="Time an evaluation.")
    parser.add_function_arguments(benchmark)
    print(benchmark(**parser.parse_args(arguments).as_dict()))


if __name__ == "__main__":
    with one_line():
        main()
