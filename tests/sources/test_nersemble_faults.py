"""Incomplete and damaged NeRSemble recordings: what is skipped and reported, and what is refused."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InputError
from shards.builder import build
from shards.skips import SKIPPED, load_skips
from shards.sources.nersemble.layouts import find_takes
from shards.sources.nersemble.source import NersembleCapture
from tests.sources import studio as stage
from tests.sources.dots import SEQUENCE, capture, everything
from tests.sources.studio import SERIALS, Studio


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
        ({"condition_frames": 0}, "--condition_frames 0: give 1 or more"),
        ({"val_share": 0.7, "test_share": 0.3}, "leave people for training"),
        ({"conditions": "blender"}, "no such renderer; choose from studio, synthetic"),
    ],
)
def test_invalid_settings_are_input_errors(roots: dict[str, Path], change: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        NersembleCapture(**{"root": str(roots["v2"]), **change})


def test_folder_without_recordings_is_refused(tmp_path: Path):
    (tmp_path / "007").mkdir()
    with pytest.raises(InputError, match="no NeRSemble recordings in any known layout"):
        NersembleCapture(str(tmp_path))


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
    assert {pick.take.participant for unit in source.units() for pick in unit} == {"018"}
    assert "1 sequences of fewer than --min_views 9 cameras are left out" in caplog.text
    assert "svfr: single views without calibration: python -m shards.build wild reads them" in caplog.text


def test_links_and_other_names_are_not_participants(roots: dict[str, Path], tmp_path: Path):
    os.symlink(roots["v2"] / "007", tmp_path / "..odd")
    (tmp_path / "007x").mkdir()
    with pytest.raises(InputError, match="no NeRSemble recordings"):
        find_takes(tmp_path)
