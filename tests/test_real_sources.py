"""From downloads to batches: NeRSemble, PanoHead samples and photos, built as shards and loaded."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import InputError
from datamodules import PortraitViewsDataModule, SourceConfig
from lightning_modules.networks.pretrained import save_backbone
from lightning_modules.training import read_config
from portraits.cameras import PIVOT, project
from portraits.geometry import STANDARD_LANDMARKS
from shards.builder import build
from tests.faces import find_dots
from tests.networks.toy import toy_backbone
from tests.sources.dots import DotCapture
from tests.sources.studio import Studio, paint_dots, write_v2
from tests.sources.test_labelled import SHIFT, DotFolder, paint, panohead_labels
from tests.sources.test_wild import DotPortraits, photo

CONFIGS = Path(__file__).parents[1] / "configs"
SIZE = 96
SHARES = {"val_share": 0.0, "test_share": 0.0}


def build_nersemble(folder: Path, out: Path) -> None:
    """Two people of NeRSemble's second release, as shards."""
    studio = Studio()
    pictures = studio.pictures(paint_dots)
    for person in ("007", "009"):
        write_v2(folder, person, "EMO-1-shout+laugh", studio, pictures)
    build(DotCapture(str(folder), 4, SIZE, val_frames=0, test_frames=0, **SHARES), out, 0)


def build_panohead(folder: Path, out: Path) -> None:
    """Two identities of PanoHead's, as shards."""
    folder.mkdir()
    labels = []
    for seed in ("seed0001", "seed0002"):
        for view, label in enumerate(panohead_labels()):
            Image.fromarray(paint(label, STANDARD_LANDMARKS + SHIFT)).save(folder / f"{seed}_{view}.png")
            labels.append([f"{seed}_{view}.png", [str(value) for value in label]])
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    build(DotFolder(str(folder), SIZE, **SHARES), out, 0)


@pytest.fixture
def mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PortraitViewsDataModule:
    """The data module of `configs/data/nersemble_panohead.yaml` on stage 1, over shards of toy downloads."""
    monkeypatch.chdir(tmp_path)
    build_nersemble(tmp_path / "nersemble", tmp_path / "shards" / "built" / "nersemble")
    build_panohead(tmp_path / "panohead", tmp_path / "shards" / "built" / "panohead")
    save_backbone(toy_backbone(), str(tmp_path / "toy"))
    files = [f"--config={CONFIGS / name}" for name in ("stage1.yaml", "data/nersemble_panohead.yaml")]
    options = {"num_workers": 0, "batch_size": 2, "image_size": SIZE, "conditions": "true", "val_frames": 0}
    flags = [f"--data.init_args.{name}={value}" for name, value in options.items()]
    backbone = f"--model.init_args.backbone={tmp_path / 'toy'}"
    return read_config([*files, *flags, backbone, "--trainer.accelerator=cpu"]).datamodule


def assert_dots_match_cameras(batch: dict) -> None:
    for images, cameras in zip(batch["target"], batch["camera"], strict=True):
        for image, camera in zip(images, cameras.numpy(), strict=True):
            pixels = ((image.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
            found = find_dots(pixels)
            if found is not None:  # the camera is not behind the head
                assert np.abs((found + 0.5) / SIZE - project(STANDARD_LANDMARKS, camera)).max() < 0.01


def test_nersemble_and_panohead_are_mixed_equally(mixture: PortraitViewsDataModule):
    mixture.setup("fit")
    batches = list(islice(mixture.train_dataloader(), 25))
    people = [identity for batch in batches for identity in batch["identity"]]
    assert set(people) == {"nersemble-007", "nersemble-009", "panohead-seed0001", "panohead-seed0002"}
    share = sum(name.startswith("nersemble") for name in people) / len(people)
    assert 0.35 < share < 0.65
    assert any(len({name.partition("-")[0] for name in batch["identity"]}) == 2 for batch in batches)
    for batch in batches[:5]:
        assert batch["target"].shape == batch["condition"].shape == (2, 8, 3, SIZE, SIZE)
        assert_dots_match_cameras(batch)
        middles = [project([PIVOT], camera) for camera in batch["camera"].flatten(0, 1).numpy()]
        np.testing.assert_allclose(middles, 0.5, atol=1e-3)


def test_photos_load_as_single_views_for_reconstruction(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    for name, shift in (("ada.png", (120.0, 40.0)), ("bob.png", (60.0, 30.0)), ("cleo.png", (90.0, 50.0))):
        photo(shift=shift).save(tmp_path / "photos" / name)
    build(DotPortraits(str(tmp_path / "photos"), SIZE), tmp_path / "wild", 0)
    sources = {"wild": SourceConfig(str(tmp_path / "wild"))}
    with pytest.raises(InputError, match="its frames have 1 views"):
        PortraitViewsDataModule(sources, SIZE, 2, num_workers=0).setup("test")
    data = PortraitViewsDataModule(sources, SIZE, 2, num_workers=0, protocol="reconstruction")
    data.setup("test")
    batches = list(data.test_dataloader())
    people = [name for batch in batches for name in batch["identity"]]
    assert set(people) == {"wild-ada", "wild-bob", "wild-cleo"}
    assert sum(int(batch["valid"].sum()) for batch in batches) == 3
    for batch in batches:
        assert batch["target"].shape == batch["condition"].shape == (2, 1, 3, SIZE, SIZE)
        torch.testing.assert_close(batch["target"], batch["reference"])
        torch.testing.assert_close(batch["camera"], batch["reference_camera"])
