"""The GPU memory that training or sampling needs, computed on simulated tensors without a GPU.

The networks are the real ones. If this machine has a GPU, the step is run on it as well.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from tqdm import tqdm

from core.errors import InputError, one_line
from lightning_modules.fit import check_arguments
from lightning_modules.networks.cross_view import POSITIONS, check_views
from lightning_modules.optimization import Learning
from lightning_modules.sampling.devices import Precision
from lightning_modules.sampling.settings import Sampling
from lightning_modules.step_memory import (
    Memory,
    SamplingRun,
    TrainingRun,
    measured_sampling,
    measured_training,
    sampling_memory,
    training_memory,
)
from lightning_modules.training import SettingsOnly, read_config
from lightning_modules.unloaded import BatchSize, check_stage

USAGE = """\
usage: diffportrait3d memory [--config FILE … [--GROUP.SETTING VALUE …] | --sampling [--SETTING VALUE …]]

Compute the GPU memory that training or sampling needs; without a GPU.

Without options: every stage, the noise prior and sampling at Stable Diffusion 1.5's size on a GPU of 24 GB.

options:
  -h, --help                 show this help and exit
  --config FILE              the run, as for fit: the same files and settings; later files win
  --model.SETTING VALUE      as for fit, e.g. --model.gradient_checkpointing false
  --data.SETTING VALUE       e.g. --data.init_args.targets 4
  --trainer.SETTING VALUE    e.g. --trainer.precision 32-true
  --sampling                 sampling at Stable Diffusion 1.5's size, with all parts
  --window N                 of sampling: views that the networks see at a time; 8
  --chunk N                  of sampling: images that the VAE and S process at a time; 1
  --precision DTYPE          of sampling: float16, bfloat16 or float32; float16
  --vae_tiling               of sampling: the VAE works in tiles"""

GIB, SAMPLING = 2**30, "--sampling"
SD15, CARD = "configs/scale/sd15.yaml", "configs/scale/sd15_24gb.yaml"
PRIOR = ("configs/noise_prior.yaml", "configs/scale/noise_prior_512.yaml")
# The runs of the table; sampling follows.
RUNS: tuple[tuple[str, ...], ...] = (
    ("configs/stage1.yaml", SD15, CARD),
    ("configs/stage2.yaml", SD15, CARD),
    ("configs/stage3.yaml", SD15, "configs/scale/sd15_stage3.yaml", CARD),
    (*PRIOR, "configs/scale/noise_prior_24gb.yaml"),
)
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
NOTE = "GiB; the CUDA context, workspaces of kernels and the allocator's fragments (about 1 GiB) come on top."


def training_run(arguments: Sequence[str]) -> TrainingRun:
    """The run that these arguments of `fit` describe. Raises InputError on what cannot be measured."""
    config: Namespace = read_config(arguments, SettingsOnly).config
    module, _, name = config.model.class_path.rpartition(".")
    stage = getattr(import_module(module), name)
    check_stage(stage)
    trainer, data = config.trainer, config.data.init_args
    if trainer.precision not in PRECISIONS:
        raise InputError(f"trainer.precision {trainer.precision}: choose from {', '.join(PRECISIONS)}")
    settings = config.model.init_args.as_dict()
    settings["learning"] = Learning(**settings["learning"])
    if "prior" in settings:
        settings["prior"] = settings["prior"]["init_args"]
    averages = [x.init_args for x in trainer.callbacks if x.class_path.endswith("WeightAverage")]
    return TrainingRun(
        config.name,
        stage,
        settings,
        BatchSize(data.batch_size, data.references, data.targets, data.image_size),
        PRECISIONS[trainer.precision],
        averaged=any(x.device != "cpu" for x in averages),
        buckets=copies_gradients(trainer.strategy),
    )


def copies_gradients(strategy: Any) -> bool:
    """Whether a trainer's strategy is DDP that copies gradients into buckets."""
    if isinstance(strategy, Namespace):
        settings = strategy.get("init_args") or Namespace()
        return "DDP" in strategy.class_path and not settings.get("gradient_as_bucket_view", False)
    return isinstance(strategy, str) and strategy.startswith("ddp")


def config_flags(files: Iterable[str]) -> list[str]:
    """Files as arguments of `fit`."""
    return [f"--config={file}" for file in files]


def sampling_run(arguments: Sequence[str]) -> SamplingRun:
    """The settings of sampling in the command's arguments. Raises InputError on unknown ones."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(sampling_options)
    try:
        return sampling_options(**parser.parse_args(list(arguments)).as_dict())
    except ArgumentError as error:
        raise InputError(" ".join(str(error).split())) from error


def sampling_options(
    window: int = 8, chunk: int = 1, precision: Precision = "float16", vae_tiling: bool = False
) -> SamplingRun:
    """The settings of sampling that memory depends on."""
    Sampling(window=window, chunk=chunk)
    check_views(window, POSITIONS)
    return SamplingRun(window, chunk, getattr(torch, precision), vae_tiling)


Row = tuple[str, Callable[[], Memory]]


def training_row(run: TrainingRun) -> Row:
    """A row of the table: the description of a training run, and a function that computes its memory."""
    size, learning = run.batch, run.settings["learning"]
    precision = "float32" if run.dtype is None else str(run.dtype).removeprefix("torch.")
    checkpointed = ", checkpointed" if run.settings.get("gradient_checkpointing") else ""
    name = (
        f"{run.name}: {size.frames} x {size.targets} images, {precision}, {learning.optimizer}{checkpointed}"
    )
    return name, lambda: with_measured(training_memory(run), lambda: measured_training(run))


def sampling_row(run: SamplingRun) -> Row:
    """A row of the table: the description of a sampling run, and a function that computes its memory."""
    precision = str(run.dtype).removeprefix("torch.")
    tiles = ", in tiles" if run.vae_tiling else ""
    name = f"sampling: {run.window} views, {precision}, VAE and S {run.chunk} at a time{tiles}"

    def compute() -> Memory:
        prior = training_run(config_flags(RUNS[-1])).settings["prior"]
        return with_measured(sampling_memory(run, prior), lambda: measured_sampling(run, prior))

    return name, compute


def with_measured(memory: Memory, measure: Callable[[], int]) -> Memory:
    """The memory, and, if this machine has a GPU, the memory measured on it."""
    return replace(memory, measured=measure()) if torch.cuda.is_available() else memory


def requested_rows(arguments: Sequence[str]) -> list[Row]:
    """The rows for the command's arguments. Raises InputError."""
    if not arguments:
        runs = [training_row(training_run(config_flags(files))) for files in RUNS]
        return [*runs, sampling_row(sampling_options())]
    if SAMPLING in arguments:
        return [sampling_row(sampling_run([x for x in arguments if x != SAMPLING]))]
    check_arguments(arguments)
    return [training_row(training_run(arguments))]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of the table in Markdown, computed one after the other behind a progress bar."""
    titles = ["", "weights", "gradients", "optimiser", "average", "activations", "total"]
    titles += ["measured"] if torch.cuda.is_available() else []
    yield "| " + " | ".join(titles) + " |"
    yield "|---" + "|---:" * (len(titles) - 1) + "|"
    for name, compute in tqdm(rows, desc="measuring", unit="run"):
        memory = compute()
        sizes = [memory.weights, memory.gradients, memory.optimizer, memory.average, memory.activations]
        sizes += [memory.total] + ([] if memory.measured is None else [memory.measured])
        yield "| " + " | ".join([name, *(f"{size / GIB:.1f}" for size in sizes)]) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; prints the table. Raises InputError."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(USAGE)
    else:
        for line in table(requested_rows(given)):
            print(line, flush=True)
        print(f"\n{NOTE}")


if __name__ == "__main__":
    with one_line():
        main()
