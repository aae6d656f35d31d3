import dataclasses
import json
import shutil

import pytest
from PIL import Image

from core.errors import InputError
from portraits.predictions import MANIFEST, Predictions


def change(predictions, **values):
    path = predictions.folder / MANIFEST
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps(content))


def test_predictions_round_trip(predictions):
    read = Predictions.load(predictions.folder)
    assert read == predictions
    assert read.cameras().shape == (6, 25)
    assert list(read.subjects()) == ["ann", "bob", "cem"]


def test_missing_manifest_error_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"no manifest.json in it; .*diffportrait3d unpack"):
        Predictions.load(tmp_path)


def test_missing_files_are_counted_and_named(predictions):
    for name in ("ann/0.png", "bob/1.truth.png"):
        (predictions.folder / name).unlink()
    with pytest.raises(
        InputError, match=r"2 of 18 files are missing .*: ann/0.png, bob/1.truth.png; partial"
    ):
        Predictions.load(predictions.folder)


def test_unlisted_images_are_refused(predictions):
    Image.new("RGB", (4, 4)).save(predictions.folder / "ann" / "extra.png")
    with pytest.raises(InputError, match=r"1 images are not in manifest.json: ann/extra.png"):
        Predictions.load(predictions.folder)


VIEW = {"subject": "ann", "view": "0"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"subject": "../ann", "view": "0"}, "cannot be a file's name"),
        ({"subject": "a" * 5000, "view": "0"}, "cannot be a file's name"),
        ({"subject": "a\0b", "view": "0"}, "cannot be a file's name"),
        ({"subject": "ann", "view": ""}, "cannot be a file's name"),
        (VIEW | {"camera": [1, 2]}, "2 numbers, not 25"),
        (VIEW | {"camera": [0] * 25}, "not a rigid"),
        (VIEW | {"camera": [10**400] * 25}, "camera"),
        (VIEW | {"camera": ["1"] * 25}, "camera"),
        (VIEW | {"truth": []}, "truth"),
        (VIEW | {"truth": 3}, "truth"),
        ({"subject": "ann", "angle": 3}, "angle"),
        ({"subject": "ann"}, "view"),
        ("ann", "views"),
        (None, "views"),
    ],
)
def test_invalid_view_entry_is_an_input_error(predictions, entry, message):
    change(predictions, views=[entry])
    with pytest.raises(InputError, match=message) as caught:
        Predictions.load(predictions.folder)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../outside.png", "ann/../../outside.png", "ann/link.png", "a\0b", "x" * 5000]
)
@pytest.mark.parametrize("kind", ["truth", "reference", "condition", "mask"])
def test_files_outside_the_folder_are_refused(predictions, name, kind):
    outside = predictions.folder.parent / "outside.png"
    Image.new("RGB", (4, 4)).save(outside)
    (predictions.folder / "ann/link.png").symlink_to(outside)
    views = [dataclasses.asdict(view) for view in predictions.views]
    views[0][kind] = name
    change(predictions, views=views)
    with pytest.raises(InputError, match=r"1 of .* files are outside the folder"):
        Predictions.load(predictions.folder)


def test_symlinked_images_outside_the_folder_are_refused(predictions):
    moved = shutil.move(predictions.folder / "ann", predictions.folder.parent / "moved")
    (predictions.folder / "ann").symlink_to(moved, target_is_directory=True)
    with pytest.raises(InputError, match=r"6 of 18 files are outside the folder: ann/0\.png"):
        Predictions.load(predictions.folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "[]", "\ud800", '{"views": NaN}'])
def test_invalid_json_is_an_input_error(predictions, text):
    (predictions.folder / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=MANIFEST):
        Predictions.load(predictions.folder)


def test_duplicate_views_are_refused(predictions):
    twice = dataclasses.replace(predictions, views=(*predictions.views, predictions.views[0]))
    twice.save()
    with pytest.raises(InputError, match="ann/0 is listed twice"):
        Predictions.load(predictions.folder)


@pytest.mark.parametrize(
    "values",
    [{"format": 7}, {"format": "1"}, {"protocol": "other"}, {"views": []}, {"settings": None}, {"more": 1}],
)
def test_invalid_manifests_are_refused(predictions, values):
    change(predictions, **values)
    with pytest.raises(InputError, match=MANIFEST):
        Predictions.load(predictions.folder)
