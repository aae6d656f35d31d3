"""Building a folder of shards from a source: parallel, resumable, the same bytes however it was run.

Each unit of work ends as one small tar in `<out>.partial/units/`, so that an interrupted build goes on where
it stopped; when all are there, they are packed into shards, and only then does anything appear under `<out>`.
"""

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from core.errors import InputError
from core.files import RESULT, resumable_folder
from core.workers import ONLY_WORKER, Worker
from shards.manifest import Manifest
from shards.packing import pack
from shards.schema import SCHEMA_VERSION, Sample, encode
from shards.skips import SKIPPED, Skip, check_share, load_skips, save_skips, summarize
from shards.writer import MAX_SHARD_BYTES, SampleTar

log = logging.getLogger(__name__)

MAX_SKIPPED_SHARE = 0.1

Unit = Any  # whatever a source calls a piece of work; it must pickle


class Source(Protocol):
    """Where frames come from. It must pickle, and everything it yields must follow from its settings."""

    name: str
    settings: dict[str, Any]

    def units(self) -> Sequence[Unit]:
        """Independent pieces of work in a fixed order; the frames of a unit belong to one split."""

    def frames(self, unit: Unit) -> int:
        """How many frames a unit is expected to yield, for the progress bar."""

    def capture(self, unit: Unit, worker: Worker = ONLY_WORKER) -> Sequence[Sample | Skip]:
        """The frames of a unit and what of it could not be used, the same at every call and for every worker.

        It is called in the process of `worker`, by whose number processes divide GPUs and CPU cores."""


def build(
    source: Source,
    out: Path,
    processes: int | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    max_skipped_share: float = MAX_SKIPPED_SHARE,
) -> Manifest:
    """Capture every unit of `source` and pack the frames into shards and a manifest in the new folder `out`.

    `processes` workers (all cores by default; 0 captures in this process). An interrupted build is resumed by
    the same call; the finished folder appears at once. What the source skips is summed up in the log and
    listed in skipped.json. Raises InputError where `out` exists, where the interrupted build had other
    settings or is still running, where the source breaks the rules of the schema, and where it skipped more
    than `max_skipped_share` of its frames."""
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already: choose another --out, or remove it to build again")
    if processes is not None and processes < 0:
        raise InputError(f"--processes {processes}: give 0 or more")
    units = source.units()
    with resumable_folder(out, _recipe(source)) as staging:
        (staging / "units").mkdir(exist_ok=True)
        _capture_all(
            _Job(source, units, staging / "units"), os.cpu_count() or 1 if processes is None else processes
        )
        packed = staging / RESULT
        shutil.rmtree(packed, ignore_errors=True)
        packed.mkdir()
        paths = [unit_path(staging / "units", index) for index in range(len(units))]
        _account(source, units, paths, packed, max_skipped_share)
        manifest = pack(paths, packed, source.name, source.settings, max_shard_bytes)
    return manifest


def _account(
    source: Source, units: Sequence[Unit], paths: Sequence[Path], packed: Path, max_skipped_share: float
) -> None:
    """Sum up what was skipped; too much of it raises InputError."""
    skips = [skip for path in paths for skip in load_skips(skips_path(path))]
    if skips:
        frames = sum(source.frames(unit) for unit in units)
        log.warning("%s", summarize(skips, frames))
        check_share(skips, frames, max_skipped_share, source.name)
        save_skips(packed / SKIPPED, skips)


def _recipe(source: Source) -> dict[str, Any]:
    return {"source": source.name, "settings": source.settings, "schema_version": SCHEMA_VERSION}


def unit_path(folder: Path, index: int) -> Path:
    """The tar of one captured unit."""
    return folder / f"{index:06d}.tar"


def skips_path(unit: Path) -> Path:
    """What was skipped of a unit, beside its tar; none where nothing was."""
    return unit.with_suffix(".skipped.json")


@dataclass(frozen=True)
class _Job:
    """What a process needs to capture units; one object for all of them, so that a source may keep assets."""

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


def _capture_all(job: _Job, processes: int) -> None:
    """Capture the units that are not there yet, with a progress bar in frames."""
    frames = [job.source.frames(unit) for unit in job.units]
    if not frames:
        raise InputError(f"{job.source.name} has nothing to capture: check its settings")
    pending = [index for index in range(len(frames)) if not unit_path(job.folder, index).exists()]
    done = sum(frames) - sum(frames[index] for index in pending)
    if done:
        log.info("resuming: %d of %d frames were captured before", done, sum(frames))
    with tqdm(total=sum(frames), initial=done, unit="frame", desc=f"capture {job.source.name}") as bar:
        for index in _work(job, pending, min(processes, len(pending))):
            bar.update(frames[index])


def _work(job: _Job, pending: list[int], processes: int) -> Iterator[int]:
    """Capture units and yield the index of each when it is done."""
    if processes == 0:
        yield from map(job.capture, pending)
        return
    with _single_threads():
        context = get_context("spawn")
        begun = context.Value("i", 0)
        pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(job, begun, processes))
        try:
            yield from _drain(pool, pending, 2 * processes)
        except BrokenProcessPool as error:
            raise InputError(
                "a capture process died (out of memory?): the same command goes on; try fewer --processes"
            ) from error
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
    """Worker processes started within use one thread each for linear algebra: there is one for every core
    already."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Set when a worker process starts, so that the source is sent to it once and not with every unit.
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
    """A worker would wait for work forever where the build was killed outright: end it with the build."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _capture(index: int) -> int:
    return _job.capture(index)
