import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from portraits.people import Person, find_people, read_people, read_portrait
from tests.faces import DOTS, DotDetector


def paint(path, size=(120, 80)):
    """Write an image whose left half is red and whose right half is blue."""
    values = np.zeros((size[1], size[0], 3), np.uint8)
    values[:, : size[0] // 2, 0] = values[:, size[0] // 2 :, 2] = 200
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def paint_face(path, at=(60, 50), scale=1.0, side=200):
    """Write an image of five dots that DotDetector takes for a face."""
    values = np.full((side, side, 3), 90, np.uint8)
    for (x, y), colour in zip(((-12, -12), (12, -12), (0, 2), (-10, 14), (10, 14)), DOTS, strict=True):
        column, row = round(at[0] + scale * x), round(at[1] + scale * y)
        values[row - 2 : row + 3, column - 2 : column + 3] = colour
    Image.fromarray(values).save(path)
    return path


def stretched(face):
    """The face with landmarks far outside its photo, as of a degenerate detection."""
    return replace(face, landmarks=face.landmarks * 1e4)


def test_find_people_in_photos_and_folders(tmp_path):
    photos = [str(paint(tmp_path / "people" / name)) for name in ("ada.jpg", "bo.png")]
    for name in ("10.png", "1.png", "2.png"):
        paint(tmp_path / "people" / "cleo" / name)
        (tmp_path / "people" / f"._{name}").write_bytes(b"\0\5\x16\7")  # macOS's file attributes
    (one,) = find_people(photos, None)
    assert (one.name, len(one.photos)) == ("ada", 2)
    (cleo,) = find_people([str(tmp_path / "people" / "cleo")], None)
    assert (cleo.name, [photo.name for photo in cleo.photos]) == ("cleo", ["1.png", "2.png", "10.png"])
    people = find_people(None, str(tmp_path / "people"))
    assert [person.name for person in people] == ["ada", "bo", "cleo"]
    assert [photo.name for photo in people[2].photos] == ["1.png", "2.png", "10.png"]


def test_unaligned_portrait_is_a_centre_crop(tmp_path):
    image = np.asarray(read_portrait(paint(tmp_path / "a.png"), 40, aligned=False))
    assert image.shape == (40, 40, 3)
    assert np.abs(image[20, 2].astype(int) - (200, 0, 0)).max() < 10
    assert np.abs(image[20, 37].astype(int) - (0, 0, 200)).max() < 10


def test_aligned_portrait_follows_the_face(tmp_path):
    crops = [
        np.asarray(
            read_portrait(paint_face(tmp_path / "a.png", at, scale), 64, aligned=True, detector=DotDetector())
        )
        for at, scale in (((60, 60), 1.0), ((110, 90), 1.0))
    ]
    assert np.abs(crops[0].astype(float) - crops[1]).mean() < 2
    assert np.abs(crops[0][32, 32].astype(int) - DOTS[2]).max() < 120  # the nose is near the centre


def write_bad_photos(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    broken = paint(tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "broken.jpg").write_bytes(broken[: len(broken) // 2])
    (tmp_path / "text.png").write_text("no picture")
    paint(tmp_path / "small.png", (20, 20))
    paint(tmp_path / "thin.png", (400, 20))
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "blank.png")
    paint(tmp_path / "meadow.png")
    paint_face(tmp_path / "far.png", scale=0.35)
    return {
        "none.jpg": "there is no such file",
        "empty.jpg": "cannot be read as a photo",
        "broken.jpg": "cannot be read as a photo",
        "text.png": "cannot be read as a photo",
        "small.png": "20x20 pixels are too few for a portrait",
        "thin.png": "400x20 pixels are too few",
        "blank.png": "the image is empty",
        "meadow.png": "no face is found .* --align false",
        "far.png": "the face's crop is .* pixels wide, too few",
    }


def test_unusable_photo_is_an_input_error_with_its_name(tmp_path):
    for name, line in write_bad_photos(tmp_path).items():
        with pytest.raises(InputError, match=f"{name}: .*{line}"):
            read_portrait(tmp_path / name, 64, aligned=True, detector=DotDetector())


def test_misplaced_face_is_an_input_error_with_the_photo_s_name(tmp_path, monkeypatch):
    photo, detector = paint_face(tmp_path / "ada.png"), DotDetector()
    largest = detector.largest
    monkeypatch.setattr(detector, "largest", lambda image: stretched(largest(image)))
    with pytest.raises(InputError, match=r"ada\.png: the face was located wrongly, .* \d+x\d+ pixels"):
        read_portrait(photo, 16, aligned=True, detector=detector)


def test_all_unusable_photos_are_named_and_can_be_skipped(tmp_path):
    names = list(write_bad_photos(tmp_path))
    people = [Person(name, (tmp_path / name,)) for name in names]
    paint_face(tmp_path / "good.png")
    both = Person("ada", (tmp_path / "empty.jpg", tmp_path / "good.png"))
    for skip, given in ((False, [*people, both]), (True, people)):
        with pytest.raises(InputError, match=".*; .*".join(re.escape(name) for name in names)):
            read_people(given, 64, aligned=True, skip=skip, detector=DotDetector())
    portraits, failures = read_people([*people, both], 64, True, skip=True, detector=DotDetector())
    assert [len(images) for images in portraits] == [0] * len(people) + [1]
    assert len(failures) == len(people) + 1
    assert all(name in failure for name, failure in zip([*names, "empty.jpg"], failures, strict=True))


def test_find_people_rejects_invalid_arguments(tmp_path):
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "twice" / "ada.png")
    paint(tmp_path / "twice" / "ada.jpg")
    for arguments, line in {
        (None, None): "either --portrait PHOTO… of one person, or --portraits FOLDER",
        (("a.png",), "folder"): "--portrait PHOTO… of one person, or --portraits FOLDER",
        (("none.png",), None): r"--portrait none\.png: there is no such file or folder",
        (None, "none"): "--portraits none: there is no such folder",
        (None, str(tmp_path / "empty")): "there are no photos in it",
        (None, str(tmp_path / "twice")): "2 photos or folders are called ada",
    }.items():
        with pytest.raises(InputError, match=line):
            find_people(*arguments)
