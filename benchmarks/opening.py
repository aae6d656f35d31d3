"""`python -m benchmarks.opening`: seconds and memory until the first batch of a large data set.

The data set has a manifest of `--samples` frames, each of another person, and tars of whole frames with 16
views. By default the tars are links to one file, so that a million frames fit on a disk: the stream opens,
indexes and reads them as different files. `--distinct` writes every tar, with its own keys.

The first batch is read in the training process itself; then forked worker processes read some more batches,
and their own memory is measured, without what they share with the training process. Seconds are of the
processor, in brackets of the clock.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import active_children, get_context, set_start_method
from pathlib import Path

from jsonargparse import ArgumentParser

from core.errors import InputError, one_line
from datamodules import PortraitViewsDataModule, SourceConfig
from shards.manifest import Manifest, ShardRecord
from shards.schema import META, Sample, encode
from shards.writer import Members, SampleTar

MEGABYTE = 1 << 20


def write_data(folder: Path, samples: int, per_shard: int, size: int, distinct: bool) -> None:
    """Write a data set of `samples` training frames in shards of `per_shard` into a new folder."""
    from benchmarks.streaming import VIEWS, NoiseSource  # imports training, which is not measured

    folder.mkdir()
    (frame,) = NoiseSource(1, size).capture(0)
    members = encode(frame)
    records: list[ShardRecord] = []
    for number, first in enumerate(range(0, samples, per_shard)):
        count = min(per_shard, samples - first)
        path = folder / f"train-{number:06d}.tar"
        if distinct or not records or count != per_shard:
            _write_shard(path, frame, members, range(first, first + count))
        else:
            os.link(folder / records[0].name, path)
        # nothing compares the checksum of a local shard when it is opened
        records.append(ShardRecord(path.name, "train", count, path.stat().st_size, f"{number:064x}"))
    people = [_person(number) for number in range(samples)]
    Manifest("noise", size, (VIEWS, VIEWS), {"train": people}, records).save(folder)


def _person(number: int) -> str:
    return f"{number:07d}"


def _write_shard(path: Path, frame: Sample, members: Members, numbers: range) -> None:
    """Frames of other people with the same images."""
    about = json.loads(members[META])
    with SampleTar(path) as tar:
        for person in map(_person, numbers):
            meta = json.dumps({**about, "identity": person}).encode()
            tar.add(replace(frame.meta, identity=person).key, {**members, META: meta})


class Watch:
    """Time and memory of this process since it was made."""

    def __init__(self) -> None:
        self._work, self._start, self._memory = time.process_time(), time.perf_counter(), _resident()

    def __str__(self) -> str:
        work, passed = time.process_time() - self._work, time.perf_counter() - self._start
        return f"{work:.2f} s ({passed:.2f} s), {_resident() - self._memory:.0f} MB"


def measure(folder: str, cache: str, size: int, workers: int, batches: int) -> list[str]:
    """Open a data set in this process, which must not have done so before; the lines of the report."""
    set_start_method("fork", force=True)  # as in training; this process was spawned
    watch = Watch()
    data = _module(folder, cache, size, 0)
    data.setup("fit")
    lines = [f"opening: {watch}"]
    next(iter(data.train_dataloader()))
    lines.append(f"until the first batch: {watch}")
    data = _module(folder, cache, size, workers)
    data.setup("fit")
    stream = iter(data.train_dataloader())
    private = [_private(stream, number) for number in (1, batches)]
    lines.append(
        f"each of {workers} workers: {private[0]:.0f} MB of its own at first, {private[1]:.0f} MB after"
        f" {batches} batches"
    )
    touched = len(list(Path(cache).rglob("*.index")))
    lines.append(f"{touched} of {len(data.frame_sets('train')[0].shards)} tars were indexed")
    return lines


def _module(folder: str, cache: str, size: int, workers: int) -> PortraitViewsDataModule:
    source = {"noise": SourceConfig(folder)}
    return PortraitViewsDataModule(
        source, size, 2, val_frames=0, num_workers=workers, cache_dir=cache, cache_gb=1
    )


def _private(stream: Iterator[object], batches: int) -> float:
    """The memory in MB that each worker has for itself after some more batches, on average."""
    for _ in range(batches):
        next(stream)
    sizes = [
        sum(int(line.split()[1]) for line in _smaps(worker.pid) if line.startswith("Private_"))
        for worker in active_children()
    ]
    return sum(sizes) / len(sizes) / 1024


def _smaps(pid: int | None) -> list[str]:
    return Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()


def _resident() -> float:
    """The memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.opening")
    parser.add_argument("--samples", type=int, default=1_000_000, help="number of frames")
    parser.add_argument("--per_shard", type=int, default=128, help="frames in a tar")
    parser.add_argument("--size", type=int, default=64, help="image side in pixels")
    parser.add_argument("--distinct", type=bool, default=False, help="write every tar instead of linking one")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--batches", type=int, default=100, help="batches after which memory is measured")
    chosen = parser.parse_args(arguments)
    if min(chosen.samples, chosen.per_shard, chosen.workers, chosen.batches) < 1 or chosen.size < 16:
        raise InputError("give at least 1 of --samples, --per_shard, --workers, --batches, and --size 16")
    with tempfile.TemporaryDirectory() as folder:
        built, cache = Path(folder) / "built", Path(folder) / "cache"
        write_data(built, chosen.samples, chosen.per_shard, chosen.size, chosen.distinct)
        manifest = (built / "manifest.json").stat().st_size / MEGABYTE
        print(f"{chosen.samples} frames, a manifest of {manifest:.1f} MB")
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            settings = (chosen.size, chosen.workers, chosen.batches)
            for line in fresh.submit(measure, str(built), str(cache), *settings).result():
                print(line)


if __name__ == "__main__":
    with one_line():
        main()
