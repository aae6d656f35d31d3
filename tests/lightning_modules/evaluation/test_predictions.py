import dataclasses
import json

import pytest
from PIL import Image

from core.errors import InputError
from portraits.predictions import MANIFEST, Predictions


def change(predictions, **values):
    path = predictions.folder / MANIFEST
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps(content))


def test_a_folder_reads_back_as_it_was_written(predictions):
    read = Predictions.load(predictions.folder)
    assert read == predictions
    assert read.cameras().shape == (6, 25)
    assert list(read.subjects()) == ["ann", "bob", "cem"]


def test_a_folder_without_a_manifest_is_told_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"no manifest.json in it; .*evaluation.unpack"):
        Predictions.load(tmp_path)


def test_missing_files_are_counted_and_named(predictions):
    for name in ("ann/0.png", "bob/1.truth.png"):
        (predictions.folder / name).unlink()
    with pytest.raises(
        InputError, match=r"2 of 18 files are missing .*: ann/0.png, bob/1.truth.png; partial"
    ):
        Predictions.load(predictions.folder)


def test_images_that_nothing_names_are_refused(predictions):
    Image.new("RGB", (4, 4)).save(predictions.folder / "ann" / "extra.png")
    with pytest.raises(InputError, match=r"1 images are not in manifest.json: ann/extra.png"):
        Predictions.load(predictions.folder)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"subject": "../ann", "view": "0"}, "no plain file name"),
        ({"subject": "ann", "view": "0", "camera": [1, 2]}, "not 25 numbers"),
        ({"subject": "ann", "view": "0", "camera": [0] * 25}, "not a rigid"),
        ({"subject": "ann", "angle": 3}, "not a view"),
        ("ann", "not a view"),
    ],
)
def test_what_is_no_view_is_one_line(predictions, entry, message):
    change(predictions, views=[entry])
    with pytest.raises(InputError, match=message):
        Predictions.load(predictions.folder)


def test_a_view_is_listed_once(predictions):
    twice = dataclasses.replace(predictions, views=(*predictions.views, predictions.views[0]))
    twice.save()
    with pytest.raises(InputError, match="ann/0 is listed twice"):
        Predictions.load(predictions.folder)


@pytest.mark.parametrize("values", [{"format": 7}, {"protocol": "other"}, {"views": []}])
def test_other_manifests_are_refused(predictions, values):
    change(predictions, **values)
    with pytest.raises(InputError, match=MANIFEST):
        Predictions.load(predictions.folder)
