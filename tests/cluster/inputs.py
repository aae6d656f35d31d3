"""Inputs of the commands at toy size: shards, models, photos, and sources with slow or fatal units."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from core.workers import ONLY_WORKER, Worker
from shards.schema import Sample
from tests.shards.fake_source import FakeSource

UNIT_SECONDS = 0.3
SIDE = 32
PEOPLE = ("ada", "bo", "cleo", "dan", "eve", "fay", "gil", "hue")


class SlowSource(FakeSource):
    """A source of twelve units that take long enough for their worker to be killed."""

    def __init__(self) -> None:
        super().__init__(identities=4, instants=1, views=4)

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:
        """Capture one frame slowly."""
        time.sleep(UNIT_SECONDS)
        return super().capture(unit, worker)


class PoisonedSource(FakeSource):
    """A source with one unit that kills its worker."""

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:
        """Capture frames, or die."""
        if unit == ("test", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().capture(unit, worker)


def make_inputs(folder: Path) -> None:
    """Write shards, a whole model, a generator, photos, cameras and condition images into a folder."""
    from PIL import Image

    from generators.gan.folder import save_generator
    from lightning_modules.networks.portrait import save_portrait_model
    from portraits.camera_files import write_cameras
    from portraits.cameras import label_from_angles
    from shards.builder import build
    from tests.generators.inversion.test_pivotal import varied
    from tests.networks.toy import toy_model

    build(FakeSource(9, 1, views=4, size=SIDE), folder / "shards", 0, max_shard_mb=0.04)
    save_portrait_model(toy_model(image_size=SIDE), str(folder / "model"))
    save_generator(varied("eg3d"), folder / "gan", "toy")
    write_cameras(np.stack([label_from_angles(yaw, 0.05) for yaw in (-0.4, 0.4)]), folder / "cameras.json")
    draw = np.random.default_rng(0)
    (folder / "photos").mkdir()
    (folder / "conditions").mkdir()
    for name in (*(f"photos/{person}" for person in PEOPLE), "conditions/0", "conditions/1"):
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    own = np.stack([label_from_angles(0.1, 0.05)] * len(PEOPLE))
    write_cameras(own, folder / "own.json")
