"""`python -m benchmarks.evaluation`: what of a full evaluation is sampling, and what is scoring.

Views of one frame are sampled and scored as `lightning_modules.evaluate` does; on a CPU in processor time.
Sampling is measured over a few steps and drawn out to `steps` of them: every step costs the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jsonargparse import ArgumentParser
from tqdm import tqdm

from benchmarks.sampling import clock
from core.errors import InputError, one_line
from lightning_modules.evaluation.sampling import (
    Made,
    open_model,
    shown_conditions,
    shown_references,
)
from lightning_modules.evaluation.subjects import Subject, Subjects
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from metrics.suite import MetricSuite, available
from portraits.pixels import to_pixels

FEW, FEWEST = 3, 1  # steps measured
GROUPS = {
    "PSNR, SSIM": ("PSNR", "SSIM"),
    "LPIPS, DISTS": ("LPIPS", "DISTS"),
    "ID, POSE": ("ID", "POSE"),
    "FID, KID": ("FID", "KID"),
}


def seconds(run: Callable[[], object]) -> float:
    """What a run takes, after one that warms up."""
    run()
    now = clock()
    began = now()
    run()
    return now() - began


def sampling_seconds(pipeline: DiffPortrait3DPipeline, made: Made, subject: Subject) -> float:
    """What sampling all views of a subject takes in `made.sampling.steps` steps."""
    references, conditions = shown_references(subject, made)[None], shown_conditions(subject, made)[None]
    cameras = torch.from_numpy(subject.cameras)[None]

    def sample(steps: int) -> None:
        pipeline.views(
            references,
            conditions if pipeline.view_control is not None else None,
            cameras if pipeline.noise_prior is not None else None,
            seeds=[0],
            count=len(subject.truths),
            sampling=replace(made.sampling, steps=steps),
        )

    fewest, few = (seconds(lambda n=n: sample(n)) for n in tqdm((FEWEST, FEW), desc="sampling", unit="run"))
    a_step = (few - fewest) / (FEW - FEWEST)
    return fewest + (made.sampling.steps - FEWEST) * a_step


def scoring_seconds(subject: Subject, device: str) -> dict[str, float]:
    """What scoring all views of a subject takes, by group of metrics."""
    truth = to_pixels(subject.truths).to(device)
    cameras = torch.from_numpy(subject.cameras)
    found = {}
    for name, metrics in tqdm(GROUPS.items(), desc="scoring", unit="group"):
        chosen = [metric for metric in metrics if metric in available()]
        if chosen:
            suite = MetricSuite(chosen).to(device)
            found[name] = seconds(lambda suite=suite: suite.update(truth, truth, cameras=cameras))
    return found


def table(sampling: float, scoring: dict[str, float], views: int) -> str:
    """Seconds a view and shares, as Markdown."""
    total = sampling + sum(scoring.values())
    rows = {"sampling": sampling, "scoring": sum(scoring.values())}
    rows |= {f"of it {name}": value for name, value in scoring.items()}
    lines = ["| | seconds a view | share |", "|---|---:|---:|"]
    lines += [f"| {name} | {value / views:.3f} | {value / total:.1%} |" for name, value in rows.items()]
    return "\n".join(lines)


def benchmark(
    model: str = "checkpoints/mini",
    shards: str = "shards/built/synthetic",
    views: int = 8,
    steps: int = 100,
    device: str | None = None,
) -> str:
    """The table for views of the first test frame.

    Args:
        model: a model folder
        shards: a built folder of its image size
        views: how many views
        steps: denoising steps of the evaluation; the paper takes 100
        device: cpu or cuda
    """
    if steps <= FEW:
        raise InputError(f"--steps {steps}: give more than {FEW}")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    made = Made(model, Subjects(shards, frames=1, views=views), sampling=Sampling(steps=steps))
    (subject,) = made.subjects.read(made.subjects.keys())
    sampling = sampling_seconds(open_model(made).to(where), made, subject)
    scoring = scoring_seconds(subject, where)
    side = subject.truths.shape[1]
    title = f"{len(subject.truths)} views of {side}x{side} pixels, {steps} steps, on {where}:"
    return f"{title}\n\n{table(sampling, scoring, len(subject.truths))}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.evaluation", description="The cost of an evaluation.")
    parser.add_function_arguments(benchmark)
    print(benchmark(**parser.parse_args(arguments).as_dict()))


if __name__ == "__main__":
    with one_line():
        main()
