"""The commands that are killed: training stages, builds, caching of latents, evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning_modules.training  # noqa: F401  (lazy imports of the commands, done before forking)
import shards.latent_cache  # noqa: F401
from lightning_modules import evaluate, fit
from shards import build, cache_latents
from tests.soak.inputs import SIZE
from tests.sources import dots, test_wild  # noqa: F401

SOURCES = build.SOURCES | {
    "nersemble": "tests.sources.dots.DotCapture",
    "wild": "tests.sources.test_wild.DotPortraits",
}
UNITS = "built.partial/units/*.tar"
RUNS = Path("runs/run")


@dataclass(frozen=True)
class Job:
    """A kind of command.

    Args:
        name: name of the kind
        main: runs the command with its arguments
        arguments: the arguments, given the folder of the inputs; outputs are in the working folder
        resuming: additional arguments for resuming, given the working folder of a killed command
        work: pattern of the files from which the command resumes
        result: the output folder, which the command refuses to overwrite once it is complete
    """

    name: str
    main: Callable[[Sequence[str]], object]
    arguments: Callable[[Path], list[str]]
    resuming: Callable[[Path], list[str]] = lambda _: []
    work: str = str(RUNS / "version_*/checkpoints/last.ckpt")
    result: str | None = None


def stage(name: str) -> Job:
    """Training with a configuration of `tests.soak.inputs`, resumed from the newest checkpoint."""
    return Job(name, fit.main, lambda inputs: ["--config", f"{inputs}/{name}.yaml", "--threads=1"], newest)


def newest(folder: Path) -> list[str]:
    """The argument for resuming from the newest `last.ckpt` below a working folder, if there is one."""
    found = (folder / RUNS).glob("version_*/checkpoints/last.ckpt")
    last = max(found, key=lambda path: int(path.parts[-3].split("_")[1]), default=None)
    return [] if last is None else [f"--ckpt_path={last.relative_to(folder)}"]


def captured(name: str, arguments: Sequence[str], root: bool = True) -> Job:
    """A build of a source with two processes; `root`: whether it reads a folder of the inputs."""

    def command(inputs: Path) -> list[str]:
        place = {"wild": "photos"}.get(name, name)
        own = ["--root", str(inputs / place)] if root else []
        return [name, *own, *arguments, "--processes", "2", "--out", "built"]

    return Job(f"build {name}", lambda given: build.main(given, SOURCES), command, work=UNITS, result="built")


def latents(inputs: Path) -> list[str]:
    """The arguments of `cache_latents`."""
    return [str(inputs / "shards"), "--vae", str(inputs / "model"), "--out", "cached", "--device", "cpu"]


def table(inputs: Path) -> list[str]:
    """The arguments of an evaluation of two rows."""
    rows = "{same: {subjects.protocol: reconstruction}, novel: {subjects.protocol: novel_view}}"
    return [
        *("--model", str(inputs / "model"), "--subjects.shards", str(inputs / "shards")),
        *(f"--rows={rows}", "--sampling.steps=8", "--batch=1", "--scoring.metrics=[PSNR,LPIPS]"),
        "--out=table",
    ]


JOBS: tuple[Job, ...] = (
    stage("stage1"),
    stage("stage2"),
    stage("stage3"),
    stage("noise_prior"),
    stage("backbone_vae"),
    stage("backbone_unet"),
    captured(
        "synthetic",
        ["--identities=9", "--val_identities=1", "--test_identities=1", "--views=3", f"--size={SIZE}"],
        root=False,
    ),
    captured(
        "nersemble", ["--frames=3", "--val_frames=1", "--test_frames=2", "--size=96", "--background=keep"]
    ),
    captured("wild", ["--size=96"]),
    Job("cache_latents", cache_latents.main, latents, work="cached.partial/result/*.tar", result="cached"),
    Job("evaluate", evaluate.main, table, work="table/samples-*/*/views.json"),
)
