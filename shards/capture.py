"""Capture of a plan's units, each into its own tar."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from core.engine import Task
from core.errors import InputError
from core.workers import Worker
from shards.build_plan import BuildPlan
from shards.progress import UnitBar, reporter
from shards.schema import Sample, encode
from shards.skips import Skip, save_skips
from shards.source import Source, Unit
from shards.writer import SampleTar

LONGEST_NAME = 200  # characters of a unit that was given up
log = logging.getLogger(__name__)


def capture_units(plan: BuildPlan, folder: Path) -> list[Skip]:
    """Capture all units of `plan` into tars in `folder`, except those that exist.

    Shows a progress bar in frames, which moves by view, and logs early how long the rest takes. Returns the
    units that the engine gave up, which have no tar. Raises InputError if a source violates the schema or a
    worker process dies.
    """
    pending = [index for index in range(len(plan.units)) if not unit_path(folder, index).exists()]
    done = sum(plan.frames) - sum(plan.frames[index] for index in pending)
    if done:
        log.info("resuming: %d of %d frames were captured before", done, sum(plan.frames))
    task = CaptureTask(
        "capture",
        f"capture {plan.source.name}",
        Capture(plan.source, folder),
        [(index, plan.units[index]) for index in pending],
        [plan.frames[index] for index in pending],
        "frame",
        done,
        folder=folder,
    )
    lost: list[Skip] = []
    for unit in plan.engine.run(task):
        if unit.failure is not None:
            index = pending[unit.index]
            lost.append(
                Skip(
                    f"unit {index}, {str(plan.units[index])[:LONGEST_NAME]}", unit.failure, plan.frames[index]
                )
            )
    return sorted(lost, key=lambda skip: skip.what)


def unit_path(folder: Path, index: int) -> Path:
    """The tar of a captured unit."""
    return folder / f"{index:06d}.tar"


def skips_path(unit: Path) -> Path:
    """The file that lists what was skipped of a unit, next to its tar; it exists only if something was."""
    return unit.with_suffix(".skipped.json")


@dataclass(frozen=True, kw_only=True)
class CaptureTask(Task[tuple[int, Unit], None]):
    """The task of capturing units into `folder`, whose bar also moves within units."""

    folder: Path

    def bar(self, hidden: bool = False) -> UnitBar:
        """The progress bar of all frames."""
        sizes = {index: self.size(place) for place, (index, _) in enumerate(self.units)}
        total = self.done + sum(sizes.values())
        options = {"total": total, "initial": self.done, "unit": self.noun, "desc": self.title}
        return UnitBar(self.folder, sizes, disable=hidden, **options)


@dataclass(frozen=True)
class Capture:
    """Captures the units of a source into a folder. A worker's units share the source, which may cache
    assets."""

    source: Source
    folder: Path

    def __call__(self, worker: Worker) -> Callable[[tuple[int, Unit]], None]:
        """Return the function that captures one unit, given with its index."""

        def capture(numbered: tuple[int, Unit]) -> None:
            index, unit = numbered
            report = reporter(self.folder, index)
            results = self.source.capture(unit, replace(worker, report=report))
            samples = [result for result in results if isinstance(result, Sample)]
            skips = [result for result in results if isinstance(result, Skip)]
            if len({sample.meta.split for sample in samples}) > 1:
                raise InputError(f"{self.source.name}: unit {index} yields frames of several splits")
            path = unit_path(self.folder, index)
            if skips:
                save_skips(skips_path(path), skips)
            with SampleTar(path) as tar:
                for sample in samples:
                    tar.add(sample.key, encode(sample))
            report(1.0)

        return capture
