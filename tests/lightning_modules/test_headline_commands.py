"""`demo` and `ablations` end to end at toy size, with all their output files."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules import ablations
from lightning_modules.demo import demo
from lightning_modules.networks.portrait import save_portrait_model
from shards.builder import build
from tests.networks.toy import toy_model
from tests.shards.fake_source import FakeSource

pytestmark = pytest.mark.slow

SIZE = 32  # the smallest accepted portrait


class Textured(FakeSource):
    """Frames of coloured squares: flat colours are refused as portraits."""

    def capture(self, unit, *worker):
        """The frames of one person."""
        for sample in super().capture(unit, *worker):
            rng = np.random.default_rng(zlib.crc32(sample.key.encode()))
            squares = rng.integers(0, 256, (2, len(sample.views), 4, 4, 3), dtype=np.uint8)
            images = squares.repeat(SIZE // 4, axis=2).repeat(SIZE // 4, axis=3)
            yield replace(sample, views=images[0], conditions=images[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("headline") / "model"
    save_portrait_model(toy_model(prior=True, image_size=SIZE), str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people") / "fake"
    build(Textured(4, 1, views=7, size=SIZE), folder, 0)
    return str(folder)


def test_demo_writes_views_a_table_and_an_orbit(model, people, tmp_path):
    out = tmp_path / "demo"
    demo(model, people, str(out), frames=2, views=2, steps=2)
    table = json.loads((out / "table.json").read_text())
    assert table["truth"]["faces"]["mean"] is not None
    assert np.isfinite(table["full model"]["PSNR"]["mean"])
    assert "an orbit of 24 views" in (out / "table.md").read_text()
    assert len(list((out / "orbit/views").glob("*.png"))) == 24
    with Image.open(out / "views.png") as picture:
        assert picture.convert("L").getextrema()[0] < picture.convert("L").getextrema()[1]


def test_ablations_write_every_row_and_the_probes(model, people, tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "PATH", 12)
    half = torch.arange(SIZE)[None, None, None].expand(1, 1, SIZE, SIZE) < SIZE // 2
    monkeypatch.setattr(ablations, "occluded", lambda *given: half.expand(*given[-1].shape[:2], -1, -1))
    ablations.run(model, people, str(tmp_path / "out"), frames=2, views=2, steps=2)
    values = json.loads((tmp_path / "out/ablations.json").read_text())
    assert len(values["rows"]) > 8
    assert np.isfinite(values["rows"]["without V"]["PSNR"]["mean"])
    distances = {
        changed: next(value for name, value in scores.items() if name.startswith("LPIPS"))
        for changed, scores in values["one camera (B.4)"].items()
    }
    assert 0 < distances["another condition"] < distances["another camera"]
    assert distances["another condition"] < distances["another person"]
    assert "| full model |" in (tmp_path / "out/ablations.md").read_text()
    assert (tmp_path / "out/views.png").is_file()
