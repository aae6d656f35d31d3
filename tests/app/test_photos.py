"""Checks of uploaded photos, the choice of a face, and the portrait files for `synthesize`."""

import numpy as np
import pytest
from PIL import Image, ImageFile

from app import photos as module
from app.photos import Photo, check_photo, check_upload, choose_face, framed, portrait_files, replaced
from core.errors import InputError
from portraits.alignment.detection import Face, choose
from portraits.people import read_portrait

SIZE = 32
LANDMARKS = np.array([(-12.0, -12.0), (12.0, -12.0), (0.0, 2.0), (-10.0, 14.0), (10.0, 14.0)])


class TwoFaces:
    """Finds a large face on the left and a smaller one on the right in any photo."""

    def faces(self, image: Image.Image) -> list[Face]:
        found = []
        for x, scale in ((0.3, 1.0), (0.75, 0.7)):
            points = LANDMARKS * scale * image.height / 100 + (x * image.width, image.height / 2)
            found.append(Face(np.concatenate([points.min(0), points.max(0)]), points, 1.0))
        return found

    def largest(self, image: Image.Image) -> Face | None:
        return choose(self.faces(image))


class NoFaces(TwoFaces):
    """Finds no face in any photo."""

    def faces(self, image: Image.Image) -> list[Face]:  # noqa: ARG002
        return []


@pytest.fixture
def photo(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (100, 240, 3), dtype=np.uint8)
    path = tmp_path / "ab12cd34-us both.png"
    Image.fromarray(values).save(path)
    return path


def test_file_size_is_checked_before_reading(tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(module.MAX_BYTES + 1)
    monkeypatch.setattr(module, "photo_size", None)  # reading would raise
    with pytest.raises(InputError, match=r"large.jpg: 32 MB are too many"):
        check_upload(path)


def test_image_size_is_checked_before_decoding(photo, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 240 * 100 - 1)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(InputError, match="240x100 pixels are too many"):
        check_upload(photo)


@pytest.mark.parametrize(
    "content", [b"just a text file\n", b"\xff\xd8\xff\xe0 not really a JPEG", b"<svg/>", b""]
)
def test_other_files_are_refused_by_their_content(tmp_path, content):
    path = tmp_path / "0a1b2c3d-notes.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^notes.jpg: cannot be read as a photo"):
        check_upload(path)


def test_truncated_photo_is_an_input_error(photo):
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    with pytest.raises(InputError, match=r"^us both.png: cannot be read"):
        check_photo(photo, SIZE, TwoFaces())


def test_photo_without_a_face_is_an_input_error(photo):
    with pytest.raises(InputError, match=r"^us both.png: no face is found in a photo of 240x100 pixels"):
        check_photo(photo, SIZE, NoFaces())


def test_largest_face_is_cropped_as_by_synthesize(photo, tmp_path):
    found = check_photo(photo, SIZE, TwoFaces())
    assert (len(found.boxes), found.chosen, found.largest) == (2, 0, True)
    expected = read_portrait(photo, SIZE, aligned=True, detector=TwoFaces())
    np.testing.assert_array_equal(np.asarray(found.crop), np.asarray(expected))
    (file,), align = portrait_files([found], tmp_path)
    assert align
    assert read_portrait(tmp_path / file, SIZE, align, TwoFaces()).tobytes() == expected.tobytes()


def test_crop_of_another_face_is_used_unchanged(photo, tmp_path):
    first = check_photo(photo, SIZE, TwoFaces())
    other = choose_face(first, 1, SIZE, TwoFaces())
    assert (other.chosen, other.largest) == (1, False)
    assert other.crop.tobytes() != first.crop.tobytes()
    assert choose_face(other, 0, SIZE, TwoFaces()) == first
    files, align = portrait_files([first, other], tmp_path)
    assert not align
    seen = [read_portrait(tmp_path / file, SIZE, align).tobytes() for file in files]
    assert seen == [first.crop.tobytes(), other.crop.tobytes()]


def test_chosen_face_is_framed_in_colour(photo):
    first = check_photo(photo, SIZE, TwoFaces())
    second = choose_face(first, 1, SIZE, TwoFaces())
    left, right = (np.asarray(framed(face)).astype(int) for face in (first, second))
    changed = np.abs(left - right).sum(2) > 30
    assert changed[:, : left.shape[1] // 2].any()
    assert changed[:, left.shape[1] // 2 :].any()


def test_existing_crop_is_used_unchanged(tmp_path):
    values = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "person-1.png")
    person = Photo(tmp_path / "person-1.png", Image.fromarray(values), is_crop=True)
    assert choose_face(person, 1, SIZE, NoFaces()) is person
    (file,), align = portrait_files([person], tmp_path)
    assert not align
    np.testing.assert_array_equal(np.asarray(read_portrait(tmp_path / file, SIZE, align)), values)
    assert replaced([person, person], 1, person) == [person, person]
