"""`python -m benchmarks.latents --configs '[configs/stage1.yaml]'`: the time that cached latents save.

The same training runs alternately on its shards without and with latents (`python -m shards.cache_latents`),
so that noise affects both equally. The CPU time of reading and training is measured, which depends little on
other processes.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentParser

from benchmarks.training import train
from core.destination import Destination
from core.errors import InputError, one_line
from lightning_modules.stage import Stage
from lightning_modules.training import read_config
from shards.latent_cache import cache
from shards.manifest import Manifest

WARMUP_STEPS = 2


class StepCost(pl.Callback):
    """Records the CPU time of this process at the end of each training step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Record the time."""
        self.ends.append(time.process_time())

    @property
    def seconds(self) -> list[float]:
        """The CPU time of each step after the first few, including the reading of its batch."""
        return [after - before for before, after in zip(self.ends[:-1], self.ends[1:], strict=True)][
            WARMUP_STEPS:
        ]


def with_latents(configs: Sequence[str], folder: Path) -> Path:
    """Copy the shards of a training with latents into `folder`, and return a YAML that uses the copies.

    Raises InputError if a source is no local folder, or the trained module has no VAE."""
    cli = read_config([*(f"--config={config}" for config in configs), "--trainer.logger=false"])
    if not isinstance(cli.model, Stage):
        raise InputError(
            f"{', '.join(configs)}: trains a {type(cli.model).__name__}, which does not read latents"
        )
    sources: dict[str, dict[str, Any]] = {}
    for name, source in cli.config.data.init_args.sources.items():
        if not isinstance(source.urls, str) or not Path(source.urls).is_dir():
            raise InputError(f"source {name}: {source.urls} is not a folder built by python -m shards.build")
        before = Manifest.load(Path(source.urls))
        after = cache(Path(source.urls), Destination(folder / name), cli.model.vae)
        sizes = [sum(shard.bytes for shard in manifest.shards) / 1e6 for manifest in (before, after)]
        print(f"source {name}: {sizes[0]:.1f} MB, with latents {sizes[1]:.1f} MB")
        sources[name] = {"urls": str(folder / name), "weight": source.weight}
    overlay = folder / "latents.yaml"
    overlay.write_text(yaml.safe_dump({"data": {"init_args": {"sources": sources}}}))
    return overlay


def compare(configs: Sequence[str], steps: int, rounds: int) -> tuple[float, float]:
    """The median CPU time of a step in seconds, on images and on latents."""
    found: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        layers = [list(configs), [*configs, str(with_latents(configs, Path(folder)))]]
        for _ in range(rounds):
            for seconds, files in zip(found, layers, strict=True):
                cost = StepCost()
                train(files, steps + WARMUP_STEPS + 1, cost, ["--data.init_args.num_workers=0"])
                seconds += cost.seconds
    return statistics.median(found[0]), statistics.median(found[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.latents")
    parser.add_argument(
        "--configs",
        type=list[str],
        required=True,
        help="YAML files of a training run",
    )
    parser.add_argument("--steps", type=int, default=6, help="steps measured per round")
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds")
    chosen = parser.parse_args(arguments)
    if min(chosen.steps, chosen.rounds) < 1:
        raise InputError("--steps and --rounds: give 1 or more")
    images, latents = compare(chosen.configs, chosen.steps, chosen.rounds)
    print(
        f"{' + '.join(chosen.configs)}, CPU time per step: {images:.2f} s on images, {latents:.2f} s on"
        f" latents in the shards, {images / latents:.2f} times faster"
    )


if __name__ == "__main__":
    with one_line():
        main()
