"""Capture of a plan's units in worker processes, each into its own tar."""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from tqdm import tqdm

from core.errors import InputError
from core.workers import ONLY_WORKER, Worker
from shards.build_plan import BuildPlan
from shards.schema import Sample, encode
from shards.skips import Skip, save_skips
from shards.source import Source, Unit
from shards.writer import SampleTar

log = logging.getLogger(__name__)

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def capture_units(plan: BuildPlan, folder: Path) -> list[Path]:
    """Capture all units of `plan` into tars in `folder`, except those that exist, and return the tars.

    Shows a progress bar in frames. Raises InputError if a source violates the schema or a worker process
    dies.
    """
    paths = [unit_path(folder, index) for index in range(len(plan.units))]
    pending = [index for index, path in enumerate(paths) if not path.exists()]
    done = sum(plan.frames) - sum(plan.frames[index] for index in pending)
    if done:
        log.info("resuming: %d of %d frames were captured before", done, sum(plan.frames))
    job = _Job(plan.source, plan.units, folder)
    bar = tqdm(total=sum(plan.frames), initial=done, unit="frame", desc=f"capture {plan.source.name}")
    with bar, _memory_errors():
        for index in _captured(job, pending, min(plan.processes, len(pending))):
            bar.update(plan.frames[index])
    return paths


def unit_path(folder: Path, index: int) -> Path:
    """The tar of a captured unit."""
    return folder / f"{index:06d}.tar"


def skips_path(unit: Path) -> Path:
    """The file that lists what was skipped of a unit, next to its tar; it exists only if something was."""
    return unit.with_suffix(".skipped.json")


@dataclass(frozen=True)
class _Job:
    """The state for capturing units, shared by all units in a process, so that a source can cache assets."""

    source: Source
    units: Sequence[Unit]
    folder: Path
    worker: Worker = ONLY_WORKER

    def capture(self, index: int) -> int:
        """Capture one unit into its tar and return its index."""
        results = self.source.capture(self.units[index], self.worker)
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
        return index


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise InputError with the remedy if memory runs out in this process or in a worker."""
    try:
        yield
    except BrokenProcessPool as error:
        raise InputError(
            "a capture process died, perhaps for lack of memory: run the same command again to resume,"
            " with fewer --processes"
        ) from error
    except MemoryError as error:
        raise InputError(
            "out of memory: run the same command again to resume, with fewer --processes"
        ) from error


def _captured(job: _Job, pending: list[int], processes: int) -> Iterator[int]:
    """Capture units and yield the index of each when it is complete."""
    if processes == 0:
        yield from map(job.capture, pending)
        return
    with _single_threads():
        context = get_context("spawn")
        begun = context.Value("i", 0)
        pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(job, begun, processes))
        try:
            yield from _drain(pool, pending, 2 * processes)
        finally:
            pool.shutdown(cancel_futures=True)


def _drain(pool: ProcessPoolExecutor, pending: list[int], ahead: int) -> Iterator[int]:
    """Keep at most `ahead` units submitted, so that an error or ctrl-c ends the build soon."""
    waiting = iter(pending)
    running: set[Future[int]] = set()
    while True:
        while len(running) < ahead and (index := next(waiting, None)) is not None:
            running.add(pool.submit(_capture, index))
        if not running:
            return
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            yield future.result()


@contextmanager
def _single_threads() -> Iterator[None]:
    """Limit worker processes started in the block to one thread each for linear algebra."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Set when a worker process starts, so that the source is sent once per process instead of with every unit.
_job: _Job


def _begin(job: _Job, begun: "Synchronized[int]", processes: int) -> None:
    """Initialize a worker process; `begun` counts them."""
    global _job
    with begun.get_lock():
        number = begun.value
        begun.value += 1
    _job = replace(job, worker=Worker(number, processes))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the build is killed, instead of waiting for work forever."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _capture(index: int) -> int:
    return _job.capture(index)
