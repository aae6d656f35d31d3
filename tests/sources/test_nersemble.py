"""NeRSemble in every layout, from a studio whose head and cameras are known."""

import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InputError
from core.workers import ONLY_WORKER, Worker
from portraits.cameras import angles, project
from portraits.geometry import STANDARD_LANDMARKS
from shards.builder import build
from shards.schema import Sample
from shards.skips import Skip
from shards.sources.nersemble.layouts import find_takes
from shards.sources.nersemble.picking import HELD_OUT, pick_frames, split_of
from shards.sources.nersemble.source import NersembleCapture
from shards.sources.splits import Shares
from tests.faces import find_dots
from tests.sources import studio as stage
from tests.sources.dots import ALL_TRAIN, PEOPLE, SEQUENCE, SIZE, DotCapture, capture, everything
from tests.sources.studio import LAYOUTS, SERIALS, Studio


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_detected(roots: dict[str, Path], layout: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        source = capture(roots[layout])
    assert source.layout == layout
    assert f"layout {layout}: 2 participants, 2 sequences" in caplog.text
    name, takes = find_takes(roots[layout])
    assert (name, [take.name for take in takes]) == (layout, [f"{p}/{SEQUENCE}" for p in PEOPLE])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_project_landmarks_to_their_pixels(captured: dict, layout: str):
    samples, skips = captured[layout]
    assert skips == []
    assert len(samples) == 2
    for sample in samples:
        assert sample.meta.attributes["cameras"] == list(SERIALS)
        wanted = [project(STANDARD_LANDMARKS, camera) for camera in sample.cameras]
        for image, expected in zip(sample.views[:14], wanted, strict=False):
            found = (find_dots(image) + 0.5) / SIZE
            assert np.abs(found - expected).max() < 0.01


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cameras_behind_the_head_are_kept(captured: dict, studio: Studio, layout: str):
    sample = captured[layout][0][0]
    truth = np.stack([studio.head.camera(camera.pose)[:3, 3] for camera in studio.cameras.values()])
    yaw = np.degrees(np.arctan2(truth[:, 0], truth[:, 2]))
    assert np.abs(yaw[-2:]).min() > 90
    recovered = np.degrees(angles(sample.cameras)[:, 0])
    assert np.abs((recovered - yaw + 180) % 360 - 180).max() < 1.0
    positions = sample.cameras[:, [3, 7, 11]]
    assert np.linalg.norm(positions - truth, axis=1).max() < 0.05


def test_layouts_give_equal_samples(captured: dict):
    by_layout = [{s.key: s for s in samples} for samples, _ in captured.values()]
    assert len({tuple(sorted(samples)) for samples in by_layout}) == 1
    for key, first in by_layout[0].items():
        for samples in by_layout[1:]:
            assert np.abs(samples[key].cameras - first.cameras).max() < 0.02
            difference = np.abs(samples[key].views.astype(int) - first.views)
            assert difference.mean() < 3


def test_videos_are_read_at_exact_frames(roots: dict[str, Path]):
    from shards.sources.nersemble.footage import open_footage

    take = find_takes(roots["v2"])[1][0]
    footage = open_footage(take)
    assert list(footage.instants) == list(range(stage.FRAMES))
    for instant, shown in footage.read([1, 3, 4]):
        assert set(shown) == set(SERIALS)
        for picture in shown.values():
            assert abs(picture.image[-8:].mean() - (30 * instant + 20)) < 4


def test_mattes_become_masks_and_remove_the_background(roots: dict[str, Path], captured: dict):
    kept = captured["paper"][0][0]
    white = everything(capture(roots["paper"], background="white"))[0][0]
    assert kept.masks is not None
    outside = kept.masks == 0
    assert outside.any()
    assert (white.views[outside] == 255).all()
    samples, skips = everything(capture(roots["v2"], background="white"))
    assert samples == []
    assert {skip.reason for skip in skips} == {"there is no matte to remove the background with"}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_colour_corrections_are_applied(
    tmp_path: Path, studio: Studio, pictures: stage.Pictures, captured: dict, version: str
):
    from shards.sources.nersemble.colour import to_linear, to_srgb

    def spoil(picture: np.ndarray) -> np.ndarray:
        colours = picture / 255
        if version == "v1":
            spoilt = (colours - stage.AFFINE[:, 3]) @ np.linalg.inv(stage.AFFINE[:, :3])
        else:
            spoilt = to_srgb(to_linear(colours) @ np.linalg.inv(stage.POLYNOMIAL).T)
        return np.round(np.clip(spoilt, 0, 1) * 255).astype(np.uint8)

    LAYOUTS["paper"](tmp_path, "007", SEQUENCE, studio, {s: spoil(p) for s, p in pictures.items()})
    if version == "v1":
        folder = tmp_path / "007" / "annotations" / SEQUENCE / "color_correction"
        folder.mkdir(parents=True)
        for serial in SERIALS:
            np.save(folder / f"{serial}.npy", stage.AFFINE)
    else:
        values = {serial: stage.POLYNOMIAL.tolist() for serial in SERIALS}
        stage.write_json(tmp_path / "007" / "calibration" / "color_calibration.json", values)
    plain = next(sample for sample in captured["paper"][0] if sample.meta.identity == "007")
    corrected = {s.key: s for s in everything(capture(tmp_path, test_frames=0))[0]}[plain.key]
    untouched = everything(capture(tmp_path, test_frames=0, colour=False))[0][0]
    ground = (plain.views.max(-1) < 110) & (
        plain.views.max(-1) > 0
    )  # the dots' saturated colours cannot be recovered
    off = [np.abs(sample.views.astype(int) - plain.views)[ground].mean() for sample in (corrected, untouched)]
    assert off[0] < 2.5
    assert off[1] > 5


def test_benchmark_participants_are_in_the_test_split():
    assert {"388", "477", "017", "372", "240", "018"} <= HELD_OUT
    splits = {f"{number:03d}": split_of(f"{number:03d}", Shares(0.1, 0.2)) for number in range(500)}
    assert {splits[person] for person in HELD_OUT} == {"test"}
    others = [split for person, split in splits.items() if person not in HELD_OUT]
    assert 0.06 < others.count("val") / len(others) < 0.14
    assert 0.15 < others.count("test") / len(others) < 0.25


def test_frames_are_spread_over_participants_sequences_and_time():
    from shards.sources.nersemble.layouts import Take

    takes = [Take(f"{p:03d}", f"EXP-{s}", "videos", Path("x")) for p in range(40, 50) for s in range(4)]
    picks = pick_frames(takes, {"train": 80}, Shares(0, 0), seed=3)
    assert sum(len(pick.places) for pick in picks) == 80
    assert {len(pick.places) for pick in picks} == {2}
    assert all(pick.places[0] < 0.5 <= pick.places[1] for pick in picks)
    few = pick_frames(takes, {"train": 10}, Shares(0, 0), seed=3)
    assert len({pick.take.participant for pick in few}) == 10
    assert few == pick_frames(takes, {"train": 10}, Shares(0, 0), seed=3)
    assert few != pick_frames(takes, {"train": 10}, Shares(0, 0), seed=4)


def test_interrupted_build_resumes_to_equal_shards(roots: dict[str, Path], tmp_path: Path):
    class Stops(DotCapture):
        def capture(self, unit: Any, worker: Worker = ONLY_WORKER) -> list[Sample | Skip]:
            if unit is self.units()[-1]:
                raise KeyboardInterrupt
            return super().capture(unit, worker)

    settings = {"frames": 1, "val_frames": 0, "test_frames": 1, "size": SIZE, **ALL_TRAIN}
    whole = build(DotCapture(str(roots["paper"]), **settings), tmp_path / "whole", 0)
    with pytest.raises(KeyboardInterrupt):
        build(Stops(str(roots["paper"]), **settings), tmp_path / "parts", 0)
    assert build(DotCapture(str(roots["paper"]), **settings), tmp_path / "parts", 0) == whole


def test_source_can_be_pickled(roots: dict[str, Path]):
    source = NersembleCapture(str(roots["v2"]), size=32)
    assert pickle.loads(pickle.dumps(source)).settings == source.settings


@pytest.mark.parametrize("below", ["", "sequences"])
def test_vhap_folders_need_no_participant_level(
    roots: dict[str, Path], captured: dict, tmp_path: Path, below: str
):
    shutil.copytree(roots["vhap"] / "007", tmp_path / "007")
    source = capture(tmp_path / "007" / below, test_frames=0)
    (sample,), skips = everything(source)
    twin = next(other for other in captured["vhap"][0] if other.meta.identity == "007")
    assert (source.layout, skips, sample.key) == ("vhap", [], twin.key)
    np.testing.assert_array_equal(sample.views, twin.views)
    np.testing.assert_array_equal(sample.cameras, twin.cameras)
    (tmp_path / "007").rename(tmp_path / "extracted")
    with pytest.raises(InputError, match="unknown participant"):
        capture(tmp_path / "extracted" / below)


@pytest.mark.slow
def test_shards_do_not_depend_on_processes(roots: dict[str, Path], tmp_path: Path):
    alone, together = (build(capture(roots["v2"]), tmp_path / str(n), processes=n) for n in (0, 2))
    assert alone == together
    assert alone.samples("train") == alone.samples("test") == 1
