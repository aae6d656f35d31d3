"""`python -m benchmarks.streaming`: the rate of streaming frames from shards, and training's time waiting for
data.

The rate is compared with that of the same images in loose files, of WebDataset's sequential pipeline, and of
decoding the same number of JPEGs, the lower bound of the work. Everything is read from the page cache, so
that processing is compared and not disks.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from jsonargparse import ArgumentParser
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.training import train
from callbacks.throughput import Throughput
from core.errors import one_line
from core.seeding import numpy_generator
from core.workers import ONLY_WORKER, Worker
from datamodules import PortraitViewsDataModule, SourceConfig
from datamodules.order import draw_views
from datamodules.reading import Item, ViewReader, collate
from portraits.cameras import label_from_angles
from shards.builder import build
from shards.reader import ShardReader
from shards.schema import CAMERAS, Sample, SampleMeta, condition_name, decode_image, view_name
from shards.source import Source

VIEWS = 16
BATCH = 2


class NoiseSource(Source):
    """Frames of smooth noise, with JPEGs about as large as those of photographs."""

    name = "noise"

    def __init__(self, frames: int, size: int) -> None:
        self.settings: dict[str, Any] = {"frames": frames, "size": size}

    def units(self) -> list[int]:
        """The numbers of the frames, which are the units."""
        return list(range(self.settings["frames"]))

    def frames(self, _unit: int) -> int:
        """One per unit."""
        return 1

    def capture(self, unit: int, worker: Worker = ONLY_WORKER) -> list[Sample]:  # noqa: ARG002
        """One frame of `VIEWS` views."""
        size = self.settings["size"]
        meta = SampleMeta(self.name, f"{unit:04d}", "train", "still", "0", "eg3d", "CC0-1.0")
        random = numpy_generator(0, unit)
        images = np.stack([_photograph(random, size) for _ in range(2 * VIEWS)])
        cameras = np.stack([label_from_angles(yaw, 0.0) for yaw in np.linspace(-1, 1, VIEWS)])
        return [Sample(meta, images[:VIEWS], images[VIEWS:], cameras)]


def _photograph(random: np.random.Generator, size: int) -> np.ndarray:
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.clip(smooth + random.normal(0, 4, (size, size, 1)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class LooseFiles(Dataset[Item]):
    """A data set of loose files: a folder for each frame and a file for each image."""

    folders: Sequence[Path]
    reader: ViewReader

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, number: int) -> Item:
        folder = self.folders[number]
        views = len(list(folder.glob("view_*.jpg")))
        draw = draw_views(numpy_generator(0, number), views, self.reader.references, self.reader.targets)
        cameras = np.load(folder / CAMERAS)
        return Item(
            key=folder.name,
            identity=folder.name,
            reference=np.stack([_load(folder / view_name(i)) for i in draw.references]),
            target=np.stack([_load(folder / view_name(i)) for i in draw.targets]),
            condition=np.stack([_load(folder / condition_name(i)) for i in draw.targets]),
            reference_camera=cameras[list(draw.references)],
            camera=cameras[list(draw.targets)],
        )


def _load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def unpack(data: PortraitViewsDataModule, out: Path) -> list[Path]:
    """Write every training frame of a data module into a folder of loose files, and return the folders."""
    folders = []
    for frames in data.frame_sets("train"):
        for number in range(len(frames)):
            frame = frames.frame(number)
            folder = out / frame.key
            folder.mkdir(parents=True)
            for name, content in frame.read(frame.members).items():
                (folder / name).write_bytes(content)
            folders.append(folder)
    return folders


def sequential(urls: list[str], reader: ViewReader) -> Iterator[dict[str, Any]]:
    """Batches of the same views through WebDataset's pipeline, which reads whole shards in order."""

    def item(sample: dict[str, Any]) -> Item:
        draw = draw_views(numpy_generator(0, sample["__key__"]), VIEWS, reader.references, reader.targets)
        cameras = np.frombuffer(sample[CAMERAS][-100 * VIEWS :], np.float32).reshape(VIEWS, 25)

        def images(names: Iterable[str]) -> np.ndarray:
            return np.stack([decode_image(sample[name], reader.image_size) for name in names])

        return Item(
            key=sample["__key__"],
            identity=sample["__key__"],
            reference=images(map(view_name, draw.references)),
            target=images(map(view_name, draw.targets)),
            condition=images(map(condition_name, draw.targets)),
            reference_camera=cameras[list(draw.references)],
            camera=cameras[list(draw.targets)],
        )

    samples = webdataset.WebDataset(urls, shardshuffle=False).repeat().map(item)
    return map(collate, iter(lambda: list(itertools.islice(samples, BATCH)), []))


def rate(batches: Iterable[Any], seconds: float) -> tuple[float, float]:
    """Frames per second, and per second of CPU time of this process, after the first two batches."""
    stream = iter(batches)
    next(stream), next(stream)
    start, work, count = time.perf_counter(), time.process_time(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        next(stream)
        count += BATCH
    return count / elapsed, count / (time.process_time() - work)


def forever(make: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Batches of successive epochs, without end."""
    while True:
        yield from make()


def decoding(data: PortraitViewsDataModule, reader: ViewReader) -> Iterator[None]:
    """Repeatedly decode as many JPEGs from memory as a batch has."""
    frames = data.frame_sets("train")[0]
    frame = frames.frame(0)
    images = [
        ShardReader().read(frame.path, frame.members, [view_name(i)])[view_name(i)] for i in range(VIEWS)
    ]
    needed = BATCH * (reader.references + 2 * reader.targets)
    while True:
        for i in range(needed):
            decode_image(images[i % VIEWS], reader.image_size)
        yield


def compare(size: int, frames: int, workers: int, seconds: float) -> None:
    """Measure and print the rates at one image size."""
    reader = ViewReader(size, references=1, targets=8, conditions=True)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "built"
        manifest = build(NoiseSource(frames, size), built, processes=0)
        datas = [
            PortraitViewsDataModule(
                {"noise": SourceConfig(str(built))},
                size,
                BATCH,
                val_frames=0,
                num_workers=n,
                cache_dir=folder,
            )
            for n in (0, workers)
        ]
        for data in datas:
            data.setup("fit")
        loose = LooseFiles(unpack(datas[0], Path(folder) / "loose"), reader)
        urls = [str(built / record.name) for record in manifest.shards]

        def files(count: int) -> Iterator[Any]:
            options: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "collate_fn": collate}
            return forever(lambda: DataLoader(loose, num_workers=count, drop_last=True, **options))

        rows: dict[str, Iterable[Any]] = {
            "decoding only (lower bound)": decoding(datas[0], reader),
            "shards, by offset": datas[0].train_dataloader(),
            "loose files": files(0),
            "WebDataset pipeline": sequential(urls, reader),
            f"shards, by offset, {workers} workers": datas[1].train_dataloader(),
            f"loose files, {workers} workers": files(workers),
        }
        weight = sum(record.bytes for record in manifest.shards) / frames / 1e6
        print(
            f"\n{size}x{size}, {frames} frames of {VIEWS} views ({weight:.2f} MB), 17 images of each decoded"
        )
        for name, batches in rows.items():
            wall, cpu = rate(batches, seconds)
            alone = "" if "workers" in name else f"{cpu:9.1f} frames/CPU s"
            print(f"  {name:32}{wall:8.1f} frames/s{17 * wall:8.0f} images/s{alone}", flush=True)


def waiting(configs: Sequence[str], steps: int) -> None:
    """Train by configuration files, later ones taking precedence, and print the share of time spent waiting
    for data."""
    found = train(configs, steps, Throughput())
    print(
        f"\n{' + '.join(configs)}, {steps} steps: {found['train/images_per_second']:.1f} images/s,"
        f" {found['train/data_wait']:.2%} of the time waiting for data"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = ArgumentParser(prog="python -m benchmarks.streaming")
    parser.add_argument("--sizes", type=list[int], default=[64, 512], help="image sides in pixels")
    parser.add_argument("--frames", type=int, default=48, help="number of frames")
    parser.add_argument("--workers", type=int, default=2, help="worker processes, for the rows with workers")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds for which each rate is measured")
    parser.add_argument("--configs", type=list[str], default=[], help="YAML files of a training run to time")
    parser.add_argument("--steps", type=int, default=20, help="number of its training steps")
    chosen = parser.parse_args(arguments)
    for size in chosen.sizes:
        compare(size, chosen.frames, chosen.workers, chosen.seconds)
    if chosen.configs:
        waiting(chosen.configs, chosen.steps)


if __name__ == "__main__":
    with one_line():
        main()
