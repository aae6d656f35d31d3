"""A source of flat random colours with valid cameras, without rendering."""

import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError
from core.workers import ONLY_WORKER, Worker
from portraits.cameras import label_from_angles
from shards.schema import SPLITS, Sample, SampleMeta
from shards.source import Source


def make_sample(
    identity: str = "0000",
    instant: str = "0",
    split: str = "train",
    views: int = 12,
    size: int = 16,
    source: str = "fake",
    masks: bool = False,
) -> Sample:
    """A frame whose images depend on its key only; flat colours survive JPEG almost unchanged."""
    meta = SampleMeta(source, identity, split, "still", instant, "eg3d", "CC0-1.0")
    rng = np.random.default_rng(zlib.crc32(meta.key.encode()))
    colours = rng.integers(0, 256, (2, views, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colours, (2, views, size, size, 3)).copy()
    cameras = np.stack([label_from_angles(yaw, 0.1) for yaw in np.linspace(-1, 1, views)])
    silhouettes = np.zeros((views, size, size), np.uint8)
    silhouettes[:, 4:12, 4:12] = 255
    return Sample(meta, images[0], images[1], cameras, silhouettes if masks else None)


class FakeSource(Source):
    """A source of `identities` people in each split with `instants` frames each; a unit is a person.

    Args:
        identities: people per split
        instants: frames per person
        views: cameras per frame
        size: side of the images
        fail_at: index of the unit whose capture raises InputError; none if negative
        name: name of the source
        splits: splits of the source
    """

    def __init__(
        self,
        identities: int = 3,
        instants: int = 2,
        views: int = 12,
        size: int = 16,
        fail_at: int = -1,
        name: str = "fake",
        splits: Sequence[str] = SPLITS,
    ) -> None:
        self.name = name
        self.settings: dict[str, Any] = {
            "identities": identities,
            "instants": instants,
            "views": views,
            "size": size,
        }
        self.splits = splits
        self.fail_at = fail_at

    def units(self) -> list[tuple[str, int]]:
        """(split, person)."""
        return [(split, person) for split in self.splits for person in range(self.settings["identities"])]

    def frames(self, _unit: tuple[str, int]) -> int:
        """Frames per person."""
        return self.settings["instants"]

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:  # noqa: ARG002
        """The frames of a person."""
        split, person = unit
        if self.units().index(unit) == self.fail_at:
            raise InputError("the fake camera fell over")
        views, size = self.settings["views"], self.settings["size"]
        return [
            make_sample(f"{split}{person:03d}", str(instant), split, views, size, self.name)
            for instant in range(self.settings["instants"])
        ]


class StuckSource(FakeSource):
    """A source whose workers write their process id into `folder` and never finish."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:
        """Write a file named by the process id, and wait."""
        (self.folder / str(os.getpid())).touch()
        time.sleep(600)
        return super().capture(unit, worker)
