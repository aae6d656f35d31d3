"""A toy model, a capture, and a folder of predictions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.networks.portrait import PortraitModel, save_portrait_model
from lightning_modules.networks.pretrained import Backbone
from lightning_modules.networks.reference import AppearanceReference
from portraits.cameras import label_from_angles
from portraits.predictions import Predictions, View
from shards.builder import build
from tests.networks.toy import prompt, toy_scheduler, toy_unet, toy_vae
from tests.shards.fake_source import FakeSource

SIDE = 16


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built folder: three people in each split, one frame each, four views of 16×16 pixels."""
    folder = tmp_path_factory.mktemp("evaluated") / "fake"
    build(FakeSource(3, 1, views=4, size=SIDE), folder, 0)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the capture's image size, without F_cam."""
    unet = toy_unet(sample_size=4)
    backbone = Backbone(toy_vae(), unet, toy_scheduler(), prompt())
    folder = tmp_path_factory.mktemp("model") / "toy"
    save_portrait_model(PortraitModel(backbone, AppearanceReference.from_unet(unet)), str(folder))
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch on one thread, like forked processes, so that results are bit-identical."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    """Three subjects of two views each; every prediction is ten levels above its truth."""
    folder = tmp_path / "made"
    views = []
    for subject in ("ann", "bob", "cem"):
        (folder / subject).mkdir(parents=True)
        for number, yaw in enumerate((-0.5, 0.5)):
            levels = np.random.default_rng(number).integers(0, 240, (SIDE, SIDE, 3), dtype=np.uint8)
            stem = folder / subject / f"{number}"
            Image.fromarray(levels + 10).save(stem.with_suffix(".png"))
            Image.fromarray(levels).save(stem.with_suffix(".truth.png"))
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:, 8:] = 255
            Image.fromarray(mask).save(stem.with_suffix(".mask.png"))
            place = f"{subject}/{number}"
            camera = label_from_angles(yaw, 0.0).tolist()
            files = {"truth": f"{place}.truth.png", "mask": f"{place}.mask.png"}
            views.append(View(subject, str(number), camera=camera, **files))
    made = Predictions(folder, "peer", "novel_view", tuple(views))
    made.save()
    return made
