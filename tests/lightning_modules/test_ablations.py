"""The rows and probes of the ablations at toy width."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.errors import InputError
from lightning_modules.ablations import (
    VIEWS,
    Study,
    read_frames,
    report,
    run,
    sampled,
    spreads,
    widest,
)
from lightning_modules.likeness import RowScores
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.sampling.consistency import view_deviation, window_seams
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from portraits.cameras import angles
from shards.builder import build
from tests.networks.toy import toy_model
from tests.shards.fake_source import FakeSource

SAMPLING = Sampling(steps=2, strength=0.5)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people") / "fake"
    build(FakeSource(4, 1, views=7, size=16), folder, 0)
    return str(folder)


@pytest.fixture(scope="module")
def batch(people):
    return read_frames(people, 2, 3, 16)


@pytest.fixture(scope="module")
def views_by_row(batch):
    study = Study(toy_model(prior=True), SAMPLING)
    return {row.name: row.views(batch) for row in study.rows()}


def test_rows_differ_from_each_other(views_by_row, batch):
    assert all(views.shape == batch["target"].shape for views in views_by_row.values())
    names = list(views_by_row)
    same = [
        (one, other)
        for place, one in enumerate(names)
        for other in names[place + 1 :]
        if torch.equal(views_by_row[one], views_by_row[other])
    ]
    assert not same


def test_trivial_rows_match_their_definitions(views_by_row, batch):
    assert torch.equal(views_by_row["reference returned"][:, 1], batch["reference"][:, 0])
    pipeline = DiffPortrait3DPipeline.of(toy_model(prior=True))
    assert torch.equal(views_by_row["S alone"], pipeline.proxies(batch["reference"][:, :1], batch["camera"]))
    one = batch | {"reference": batch["reference"][:, :1]}
    assert torch.equal(views_by_row["full model"], sampled(pipeline, one, SAMPLING))


def test_spread_is_the_deviation_over_views_of_one_camera(batch, monkeypatch):
    pipeline = DiffPortrait3DPipeline.of(toy_model(prior=True))
    turned = widest(batch)
    settings = replace(SAMPLING, noise="random", window=VIEWS)
    conditions = turned["condition"].expand(-1, VIEWS, -1, -1, -1)
    made = pipeline.views(turned["reference"], conditions, seeds=[0, 1], sampling=settings)
    levels = made.add(1).mul(127.5)
    mean = levels.mean(1, keepdim=True)
    apart = ((levels - mean).square().sum(1) / (VIEWS - 1)).sqrt().mean(1)  # (B, S, S)
    right = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    right[..., 8:] = True
    monkeypatch.setattr("lightning_modules.ablations.occluded", lambda *_: right)
    found = spreads(pipeline, turned, SAMPLING)
    assert found["hidden"] == pytest.approx(apart[:, :, 8:].mean().item(), rel=1e-3)
    assert found["elsewhere"] == pytest.approx(apart[:, :, :8].mean().item(), rel=1e-3)
    assert found["share"] == 0.5
    monkeypatch.setattr("lightning_modules.ablations.occluded", lambda *_: ~(right | True))
    with pytest.raises(InputError, match="every portrait shows all"):
        spreads(pipeline, turned, SAMPLING)


def views_of_levels(*levels):
    """A stand-in for a pipeline whose views (2, K, 3, 4, 4) have these grey levels."""
    images = torch.tensor(levels).div(127.5).sub(1).view(1, -1, 1, 1, 1).expand(2, -1, 3, 4, 4)
    return SimpleNamespace(views=lambda *_, **__: images)


def test_view_deviation_is_the_standard_deviation_in_levels():
    references = torch.zeros(2, 1, 3, 4, 4)
    found = view_deviation(views_of_levels(10.0, 13.0, 16.0), references, references[:, 0], 3, SAMPLING)
    torch.testing.assert_close(found, torch.full((2, 4, 4), 3.0), rtol=1e-3, atol=1e-3)


def test_window_seams_separate_window_edges_from_other_steps():
    path = views_of_levels(0.0, 1.0, 2.0, 3.0, 13.0, 14.0, 15.0, 16.0, 26.0, 27.0, 28.0, 29.0)
    references, conditions = torch.zeros(2, 1, 3, 4, 4), torch.zeros(2, 12, 3, 4, 4)
    found = window_seams(path, references, conditions, None, Sampling(window=4, overlap=0))
    assert found == {"across": pytest.approx(10, rel=1e-3), "within": pytest.approx(1, rel=1e-3)}


def test_widest_picks_the_largest_turn_of_each_frame(batch):
    wide = widest(batch)
    turns = angles(batch["reference_camera"])[:, :, None, 0] - angles(batch["camera"])[:, None, :, 0]
    kept = np.abs(angles(wide["reference_camera"])[..., 0] - angles(wide["camera"])[..., 0])[:, 0]
    np.testing.assert_allclose(kept, np.abs(turns).max((1, 2)))
    for frame, camera in enumerate(wide["camera"][:, 0]):
        (view,) = torch.nonzero((batch["camera"][frame] == camera).all(-1))[0]
        assert torch.equal(wide["target"][frame, 0], batch["target"][frame, view])
        assert torch.equal(wide["condition"][frame, 0], batch["condition"][frame, view])


def test_report_has_a_line_per_row():
    rows = {
        "a": RowScores({"PSNR": np.array([[20.0, 20.2], [21.0, 21.2]])}, {}),
        "b": RowScores({"faces": np.ones((2, 2))}, {}),
    }
    text = report(rows, {"more": {"x": 1}}, 2, 3, SAMPLING)
    assert text.startswith(
        "2 unseen people, 3 views each, 2 steps, 3D-aware noise at strength 0.5 unless noted."
    )
    assert "| | PSNR | faces |" in text
    assert "| a | 20.6 (20.1 to 21.1) |  |" in text
    assert "| b |  | 1 (1 to 1) |" in text
    assert '- more: {"x": 1}' in text


def test_too_few_people_are_an_input_error(people):
    with pytest.raises(InputError, match="holds 4 test frames, not 9"):
        read_frames(people, 9, 3, 16)


def test_model_without_all_parts_is_an_input_error(people, tmp_path):
    save_portrait_model(toy_model(), str(tmp_path / "model"))
    with pytest.raises(InputError, match="all four parts"):
        run(str(tmp_path / "model"), people, str(tmp_path / "out"), frames=2, views=3)
