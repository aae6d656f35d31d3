"""NeRSemble from every layout, in a studio whose head and cameras are known."""

import logging
import os
import pickle
import shutil
from collections.abc import Callable
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
from shards.skips import SKIPPED, Skip, load_skips
from shards.sources.nersemble.layouts import find_takes
from shards.sources.nersemble.picking import HELD_OUT, Shares, pick_frames, split_of
from shards.sources.nersemble.source import NersembleCapture
from tests.faces import DotDetector, FlatRenderer, find_dots
from tests.sources import studio as stage
from tests.sources.studio import LAYOUTS, SERIALS, Studio, paint_dots

SIZE = 96
SEQUENCE = "EXP-3-cheeks+nose"
PEOPLE = ("007", "018")  # 018 is held out
ALL_TRAIN = {"val_share": 0.0, "test_share": 0.0}


class DotCapture(NersembleCapture):
    """NeRSemble with dots for faces."""

    _detector = DotDetector()
    _renderer = FlatRenderer()


def capture(root: Path, **change: Any) -> DotCapture:
    """A small capture of everything below `root`."""
    options = {
        "frames": 1,
        "val_frames": 0,
        "test_frames": 1,
        "size": SIZE,
        "background": "keep",
        **ALL_TRAIN,
    }
    return DotCapture(str(root), **{**options, **change})


def everything(source: NersembleCapture) -> tuple[list[Sample], list[Skip]]:
    """All samples and skips of a capture."""
    results = [result for unit in source.units() for result in source.capture(unit)]
    return [r for r in results if isinstance(r, Sample)], [r for r in results if isinstance(r, Skip)]


@pytest.fixture(scope="session")
def studio() -> Studio:
    return Studio()


@pytest.fixture(scope="session")
def pictures(studio: Studio) -> stage.Pictures:
    return studio.pictures(paint_dots)


@pytest.fixture(scope="session")
def roots(
    studio: Studio, pictures: stage.Pictures, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A root of each layout, with two participants."""
    found = {}
    for name, write in LAYOUTS.items():
        found[name] = tmp_path_factory.mktemp(name)
        for person in PEOPLE:
            write(found[name], person, SEQUENCE, studio, pictures)
    return found


@pytest.fixture(scope="session")
def captured(roots: dict[str, Path]) -> dict[str, tuple[list[Sample], list[Skip]]]:
    """The samples and skips of each layout."""
    return {layout: everything(capture(root)) for layout, root in roots.items()}


@pytest.fixture
def fresh(tmp_path: Path, studio: Studio, pictures: stage.Pictures) -> Callable[..., Path]:
    """Writes the v2 layout of a participant into a folder of the test's own."""

    def write(person: str = "007", sequence: str = SEQUENCE) -> Path:
        stage.write_v2(tmp_path / "data", person, sequence, studio, pictures)
        return tmp_path / "data"

    return write


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
    )  # the dots' pure colours cannot come back
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


def test_participant_without_calibration_is_skipped_and_reported(fresh: Callable[..., Path]):
    root = fresh("007")
    fresh("009")
    (root / "007" / "calibration" / "camera_params.json").unlink()
    samples, skips = everything(capture(root, frames=2, test_frames=0))
    assert {sample.meta.identity for sample in samples} == {"009"}
    assert [(s.what, s.reason) for s in skips] == [
        (f"007/{SEQUENCE}", "the participant has no camera_params.json")
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: values["world_2_cam"].clear(), "lists no cameras"),
        (lambda values: values.__setitem__("intrinsics", [[1, 2], [3, 4]]), "not a 4x4 pose"),
        (lambda values: values.pop("intrinsics"), "no calibration of NeRSemble"),
        (lambda values: values["intrinsics"][0].__setitem__(2, 9999.0), "principal point"),
    ],
)
def test_malformed_calibration_is_skipped_and_reported(
    fresh: Callable[..., Path], studio: Studio, damage: Callable[[dict], None], message: str
):
    root = fresh()
    values = studio.calibration()
    damage(values)
    stage.write_json(root / "007" / "calibration" / "camera_params.json", values)
    samples, skips = everything(capture(root, test_frames=0))
    assert samples == []
    assert all(message in skip.reason for skip in skips)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda poses: poses.pop(SERIALS[3]), "no calibration: camera_params.json does not list it"),
        (lambda poses: poses.__setitem__(SERIALS[3], np.zeros((4, 4)).tolist()), "it is no rigid camera"),
        (lambda poses: poses.__setitem__(SERIALS[3], [[10**400]]), "it is not a 4x4 pose"),
    ],
)
def test_camera_without_calibration_is_left_out_and_reported(
    fresh: Callable[..., Path], studio: Studio, damage: Callable[[dict], None], message: str
):
    root = fresh()
    values = studio.calibration()
    damage(values["world_2_cam"])
    stage.write_json(root / "007" / "calibration" / "camera_params.json", values)
    (sample,), (skip,) = everything(capture(root, test_frames=0))
    assert sample.meta.attributes["cameras"] == [serial for serial in SERIALS if serial != SERIALS[3]]
    assert (skip.what, skip.frames) == (f"007/{SEQUENCE} camera {SERIALS[3]}", 0)
    assert message in skip.reason


def test_split_without_participants_gives_a_warning(
    fresh: Callable[..., Path], caplog: pytest.LogCaptureFixture
):
    root = fresh()
    assert capture(root, test_frames=0).units()
    assert "held out" not in caplog.text
    capture(root, val_frames=2, test_frames=0)
    assert "--val_frames 2: no participant is held out for val" in caplog.text


def test_missing_short_and_broken_videos_are_left_out(fresh: Callable[..., Path]):
    root = fresh()
    folder = root / "007" / "sequences" / SEQUENCE / "images"
    (folder / f"cam_{SERIALS[0]}.mp4").unlink()
    broken = folder / f"cam_{SERIALS[5]}.mp4"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    stage.write_video(folder / f"cam_{SERIALS[9]}.mp4", [np.zeros((320, 220, 3), np.uint8)] * 2)
    samples, skips = everything(capture(root, test_frames=0))
    reasons = {skip.what.rpartition(" ")[2]: skip.reason for skip in skips}
    assert reasons[SERIALS[0]] == "it did not record"
    assert reasons[SERIALS[5]] == "the video file is truncated, or no MP4"
    assert reasons[SERIALS[9]] == "the video is shorter than the other cameras'"
    assert all(skip.frames == 0 for skip in skips)
    assert {len(sample.views) for sample in samples} <= {13, 14}
    few, refused = everything(capture(root, test_frames=0, min_views=16))
    assert few == []
    assert sum(skip.frames for skip in refused) == 1


def test_truncated_videos_are_used_up_to_the_damage(fresh: Callable[..., Path]):
    root = fresh()
    folder = root / "007" / "sequences" / SEQUENCE / "images"
    cut, damaged = (folder / f"cam_{SERIALS[place]}.mp4" for place in (2, 6))
    whole = stage.with_index_first(cut.read_bytes())
    cut.write_bytes(whole[: len(whole) * 4 // 5])
    damaged.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    samples, skips = everything(capture(root, frames=stage.FRAMES, test_frames=0))
    reasons = {skip.what.rpartition(" ")[2]: skip.reason for skip in skips}
    assert reasons == {
        SERIALS[2]: "the video file is truncated, or no MP4",
        SERIALS[6]: "the video ends early",
    }
    assert [len(sample.views) for sample in samples] == sorted((len(s.views) for s in samples), reverse=True)
    assert {len(sample.views) for sample in samples} == {14, 15}


def test_too_many_frames_without_a_face_fail_the_build(
    fresh: Callable[..., Path], tmp_path: Path, studio: Studio, pictures: stage.Pictures
):
    root = fresh("007")
    faceless = {serial: np.zeros_like(picture) for serial, picture in pictures.items()}
    stage.write_v2(root, "009", "HAIR", studio, faceless)
    source = capture(root, frames=2, test_frames=0)
    with pytest.raises(InputError, match=r"1 of 2 frames were skipped.*too few views see the face"):
        build(source, tmp_path / "out", processes=0)
    assert not (tmp_path / "out").exists()
    build(source, tmp_path / "out", processes=0, max_skipped_share=0.6)
    (skip,) = load_skips(tmp_path / "out" / SKIPPED)
    assert skip.what.startswith("009/HAIR frame")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": "nowhere"}, "there is no such folder"),
        ({"layout": "v3"}, "--layout v3: choose one of benchmark, v2"),
        ({"frames": 0}, "--frames 0: give 1 or more"),
        ({"val_share": 0.7, "test_share": 0.3}, "leave people for training"),
        ({"conditions": "blender"}, "no such renderer; choose from synthetic"),
    ],
)
def test_invalid_settings_are_input_errors(roots: dict[str, Path], change: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        NersembleCapture(**{"root": str(roots["v2"]), **change})


def test_folder_without_recordings_is_refused(tmp_path: Path):
    (tmp_path / "007").mkdir()
    with pytest.raises(InputError, match="no NeRSemble recordings in any known layout"):
        NersembleCapture(str(tmp_path))


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


def test_benchmark_parts_with_few_views_are_left_out(
    roots: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    whole = roots["benchmark"] / "nvs" / "018"
    view = tmp_path / "svfr" / "017" / f"{SEQUENCE}_00012_{SERIALS[8]}" / "rgb.png"
    stage.write_image(view, np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(
        InputError, match=r"single views without calibration.*shards\.build wild --root .*svfr"
    ):
        capture(tmp_path)
    few = tmp_path / "mono_flame_avatar" / "393" / "sequences" / SEQUENCE / "images"
    few.mkdir(parents=True)
    for serial in SERIALS[:3]:
        shutil.copy(whole / "sequences" / SEQUENCE / "images" / f"cam_{serial}.mp4", few)
    with pytest.raises(InputError, match="no sequence has --min_views 9 cameras"):
        capture(tmp_path)
    shutil.copytree(whole, tmp_path / "nvs" / "018")
    with caplog.at_level(logging.INFO):
        source = capture(tmp_path)
    assert {pick.take.participant for pick in source.units()} == {"018"}
    assert "1 sequences of fewer than --min_views 9 cameras are left out" in caplog.text
    assert "svfr: single views without calibration: python -m shards.build wild reads them" in caplog.text


def test_shards_do_not_depend_on_processes(roots: dict[str, Path], tmp_path: Path):
    alone, together = (build(capture(roots["v2"]), tmp_path / str(n), processes=n) for n in (0, 2))
    assert alone == together
    assert alone.samples("train") == alone.samples("test") == 1


def test_links_and_other_names_are_not_participants(roots: dict[str, Path], tmp_path: Path):
    os.symlink(roots["v2"] / "007", tmp_path / "..odd")
    (tmp_path / "007x").mkdir()
    with pytest.raises(InputError, match="no NeRSemble recordings"):
        find_takes(tmp_path)
