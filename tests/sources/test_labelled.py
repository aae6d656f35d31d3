"""Folders of labelled images: EG3D's unchanged, PanoHead's converted to EG3D's pivot."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from portraits.cameras import PIVOT, label_from_angles, project
from portraits.geometry import STANDARD_LANDMARKS
from shards.schema import Sample
from shards.skips import Skip
from shards.sources.labelled import LabelledFolder
from shards.sources.names import key_name
from tests.faces import DOTS, DotDetector, FlatRenderer, find_dots

SIDE, SIZE, VIEWS = 192, 96, 10
SHIFT = np.array([0.02, -0.03, -0.18])  # PanoHead's heads are centred on the origin


class DotFolder(LabelledFolder):
    """A labelled folder whose faces are dots."""

    _detector = DotDetector()
    _renderer = FlatRenderer()


def paint(label: np.ndarray, points: np.ndarray, side: int = SIDE) -> np.ndarray:
    """An image with dots at world points (5, 3)."""
    image = np.full((side, side, 3), 60, np.uint8)
    for (x, y), colour in zip(project(points, label) * side - 0.5, DOTS, strict=True):
        cv2.circle(image, (round(x * 16), round(y * 16)), side // 4, colour, -1, cv2.LINE_AA, shift=4)
    return image


def panohead_labels() -> list[np.ndarray]:
    """Cameras on PanoHead's sphere, looking at the origin."""
    yaws = np.linspace(-0.9, 0.9, VIEWS)
    return [label_from_angles(yaw, 0.1 * np.cos(5 * yaw), pivot=(0.0, 0.0, 0.0)) for yaw in yaws]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two identities, with labels as strings in dataset.json and masks."""
    labels = []
    for seed in ("seed0001", "seed0002"):
        for view, label in enumerate(panohead_labels()):
            name = f"{seed}_{view:02d}.png"
            Image.fromarray(paint(label, STANDARD_LANDMARKS + SHIFT)).save(tmp_path / name)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:, 40:150] = 255
            (tmp_path / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(tmp_path / "masks" / name)
            labels.append([name, [str(value) for value in label]])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    return tmp_path


def capture(root: Path, **change: Any) -> tuple[list[Sample], list[Skip]]:
    """All samples and skips of a folder."""
    options = {"size": SIZE, "val_share": 0.0, "test_share": 0.0, "min_views": 6}
    source = DotFolder(str(root), **{**options, **change})
    results = [result for unit in source.units() for result in source.capture(unit)]
    return [r for r in results if isinstance(r, Sample)], [r for r in results if isinstance(r, Skip)]


def test_panohead_cameras_are_converted_to_eg3ds_pivot(folder: Path):
    samples, skips = capture(folder)
    assert skips == []
    assert [sample.meta.identity for sample in samples] == ["seed0001", "seed0002"]
    for sample in samples:
        assert len(sample.views) == VIEWS
        for image, camera in zip(sample.views, sample.cameras, strict=True):
            np.testing.assert_allclose(project([PIVOT], camera), [[0.5, 0.5]], atol=1e-4)
            found = (find_dots(image) + 0.5) / SIZE
            assert np.abs(found - project(STANDARD_LANDMARKS, camera)).max() < 0.01
        assert sample.masks is not None
        assert 0.3 < (sample.masks > 127).mean() < 0.8


def test_panohead_crops_become_eg3d_crops(tmp_path: Path):
    side, smaller, higher = 563, 233.3 / 264, np.array([0.0, 0.03, -0.15])
    points = smaller * STANDARD_LANDMARKS + higher  # PanoHead's wider crops: 10% more above, 5% at the sides
    for view, label in enumerate(panohead_labels()[::2]):
        Image.fromarray(paint(label, points, side)).save(tmp_path / f"crop_{view}.png")
        np.save(tmp_path / f"crop_{view}.npy", label)
    ((sample,), skips) = capture(tmp_path, min_views=5)
    assert skips == []
    for image, camera in zip(sample.views, sample.cameras, strict=True):
        found = (find_dots(image) + 0.5) / SIZE
        assert np.abs(found - project(STANDARD_LANDMARKS, camera)).max() < 0.01


def test_single_photos_are_refused_naming_the_wild_source(folder: Path):
    with pytest.raises(InputError, match=r"no identity has --min_views 11 images, at most 10.*build wild"):
        capture(folder, min_views=11)


def test_eg3d_images_and_cameras_are_unchanged(folder: Path):
    samples, _ = capture(folder, convention="eg3d")
    np.testing.assert_allclose(samples[0].cameras, np.stack(panohead_labels()), atol=1e-6)
    small = Image.open(folder / "seed0001_00.png").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(samples[0].views[0], np.asarray(small))


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_labels_beside_images_and_identities_by_folder(tmp_path: Path, suffix: str):
    for person in ("ada", "björk 2"):
        (tmp_path / person).mkdir()
        for view, label in enumerate(panohead_labels()):
            path = tmp_path / person / f"{view}.png"
            Image.fromarray(paint(label, STANDARD_LANDMARKS)).save(path)
            if suffix == ".npy":
                np.save(path.with_suffix(suffix), label)
            else:
                path.with_suffix(suffix).write_text(json.dumps({"label": label.tolist()}))
    samples, skips = capture(tmp_path, convention="eg3d")
    assert [sample.meta.identity for sample in samples] == ["ada", key_name("björk 2")]
    assert {len(sample.views) for sample in samples} == {VIEWS}
    assert skips == []
    few, _ = capture(tmp_path, convention="eg3d", max_views=6)
    assert {len(sample.views) for sample in few} == {6}


@pytest.mark.parametrize("convention", ["eg3d", "panohead"])
def test_inexact_rotations_are_accepted(folder: Path, convention: str):
    straight, _ = capture(folder, convention=convention)
    values = json.loads((folder / "dataset.json").read_text())
    for entry in values["labels"]:
        label = np.array(entry[1], dtype=float)
        pose = label[:16].reshape(4, 4)
        pose[:3, 0] += 0.015 * pose[:3, 1]
        entry[1] = [f"{value:.6f}" for value in label]
    (folder / "dataset.json").write_text(json.dumps(values))
    samples, skips = capture(folder, convention=convention)
    assert skips == []
    for sample, other in zip(samples, straight, strict=True):
        assert np.abs(sample.cameras - other.cameras).max() < 0.03


def test_unusable_images_are_reported(folder: Path):
    values = json.loads((folder / "dataset.json").read_text())
    values["labels"][0][1] = ["1"] * 25
    values["labels"][1][1] = values["labels"][1][1][:16]
    (folder / "dataset.json").write_text(json.dumps(values))
    (folder / "seed0001_02.png").write_bytes(b"broken")
    samples, skips = capture(folder, min_views=8)
    assert [sample.meta.identity for sample in samples] == ["seed0002"]
    reasons = {skip.what: skip.reason for skip in skips}
    assert "is not a rigid cam2world" in reasons["seed0001_00.png"]
    assert "it has 16 numbers; EG3D labels have 25" in reasons["seed0001_01.png"]
    assert "cannot be read as a photo" in reasons["seed0001_02.png"]
    assert reasons["seed0001"] == "fewer than 8 usable images"
    assert sum(skip.frames for skip in skips) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": [["../../etc/passwd.png", [1]]]}', "is outside the folder"),
        ('{"labels": [["/etc/a.png", [1]]]}', "is outside the folder"),
        ('{"labels": [["gone.png", [1]]]}', "none of its images exists"),
        ('{"labels": {"a": 1}}', r"not \{"),
        ("[", r"not \{"),
        ('{"labels": [["00000/img00000000.png", [1]], ["00000/img00000001.png", [1]]]}', "single images"),
    ],
)
def test_malformed_label_files_are_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=message):
        LabelledFolder(str(tmp_path))


def test_pickled_labels_are_refused(tmp_path: Path):
    for view in range(2):
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"a_{view}.png")
        np.save(tmp_path / f"a_{view}.npy", np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    samples, skips = capture(tmp_path, min_views=2)
    assert samples == []
    assert "cannot be read as an array" in skips[0].reason


def test_folder_without_labels_is_refused(tmp_path: Path):
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"no dataset\.json, and no image with a"):
        LabelledFolder(str(tmp_path))
    with pytest.raises(InputError, match="no such folder"):
        LabelledFolder(str(tmp_path / "none"))
