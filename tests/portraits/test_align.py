"""Alignment end to end: scikit-image's portrait of an astronaut, and rendered heads with known cameras."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from core.errors import IncompleteError, InputError
from portraits import align as command
from portraits.alignment.align import Aligned, NoFaceError, align
from portraits.alignment.detection import FaceDetector, choose
from portraits.cameras import angles, split_label
from tests.faces import rendered_heads

SIZE = 256


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(astronaut())


@pytest.fixture(scope="module")
def aligned(photo: Image.Image) -> Aligned:
    return align(photo, SIZE)


def roll(camera: np.ndarray) -> float:
    """Roll of a camera (25,) in degrees."""
    pose = split_label(camera)[0]
    return float(np.degrees(np.arctan2(-pose[1, 0], -pose[1, 1])))


def test_alignment_is_idempotent(aligned: Aligned):
    again = align(aligned.image, SIZE)
    assert np.abs([again.square.left, again.square.top]).max() < 2.5
    assert abs(again.square.side - SIZE) < 4
    assert np.abs(np.degrees(angles(again.camera) - angles(aligned.camera))).max() < 2


def test_crop_is_invariant_to_shift_and_scale(photo: Image.Image, aligned: Aligned):
    moved = photo.crop((90, -40, 90 + 400, -40 + 400)).resize((600, 600), Image.Resampling.BICUBIC)
    found = align(moved, SIZE)
    square = np.array([found.square.left, found.square.top, found.square.side]) / 1.5 + (90, -40, 0)
    expected = np.array([aligned.square.left, aligned.square.top, aligned.square.side])
    assert np.abs(square - expected).max() < 0.02 * aligned.square.side
    assert np.abs(np.asarray(found.image).astype(float) - np.asarray(aligned.image)).mean() < 12


@pytest.mark.parametrize("tilt", [-15.0, 15.0])
def test_tilting_a_photo_changes_only_the_roll(photo: Image.Image, aligned: Aligned, tilt: float):
    centre = (aligned.square.left + aligned.square.side / 2, aligned.square.top + aligned.square.side / 2)
    found = align(photo.rotate(tilt, Image.Resampling.BICUBIC, center=centre), SIZE)
    moved = np.array([found.square.left, found.square.top]) + found.square.side / 2 - centre
    assert np.abs(moved).max() < 0.04 * aligned.square.side
    assert abs(found.square.side / aligned.square.side - 1) < 0.04
    assert abs(abs(roll(found.camera) - roll(aligned.camera)) - abs(tilt)) < 3
    assert np.abs(np.degrees(angles(found.camera) - angles(aligned.camera))).max() < 6


def test_alignment_recovers_cameras_of_rendered_heads():
    errors = []
    for portrait in rendered_heads():
        found = align(portrait.image, 128).camera
        errors.append(np.degrees(angles(found) - angles(portrait.label)))
    yaw, pitch = np.median(np.abs(errors), axis=0)
    assert yaw < 6
    assert pitch < 8


def test_choose_prefers_the_largest_face_or_the_given_box(photo: Image.Image):
    small = photo.crop((150, 20, 330, 200)).resize((120, 120), Image.Resampling.BICUBIC)
    both = Image.new("RGB", (512 + 120, 512))
    both.paste(photo)
    both.paste(small, (512, 60))
    faces = FaceDetector().faces(both)
    assert len(faces) >= 2
    assert choose(faces).box[0] < 400
    assert choose(faces, (520, 70, 620, 170)).box[0] > 500
    assert choose(faces, (5, 450, 40, 500)) is None


def test_photo_without_a_face_is_an_error():
    with pytest.raises(NoFaceError, match="no face is found in a photo of 200x100"):
        align(Image.new("RGB", (200, 100), "grey"), 64)


def test_align_command_writes_crops_labels_and_overlays(tmp_path, photo, capsys):
    photo.save(tmp_path / "astronaut.png")
    Image.effect_noise((200, 100), 20).save(tmp_path / "nobody.png")
    Image.new("RGB", (200, 100)).save(tmp_path / "plain.png")
    photo.resize((12, 12)).save(tmp_path / "tiny.png")
    photos = [str(tmp_path / f"{name}.png") for name in ("astronaut", "nobody", "plain", "tiny")]
    out = tmp_path / "out"
    with pytest.raises(IncompleteError, match=r"3 of 4 photos were not aligned: .*nobody\.png: no face"):
        command.main([*photos, "--out", str(out), "--size", "128"])
    assert "yaw" in capsys.readouterr().out
    assert Image.open(out / "astronaut.png").size == (128, 128)
    assert max(Image.open(out / "astronaut.overlay.jpg").size) == 512
    ((name, label),) = json.loads((out / "dataset.json").read_text())["labels"]
    assert (name, len(label)) == ("astronaut.png", 25)
    with pytest.raises(InputError, match="exists already"):
        command.main([photos[0], "--out", str(out)])
    photo.save(tmp_path / "astronaut.webp")
    with pytest.raises(
        InputError, match=r"astronaut\.png, .*astronaut\.webp would all be named astronaut\.png"
    ):
        command.main([str(tmp_path), "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--size", "4"], "--size 4: give 16 to 8192"), (["--box", "[1,2]"], "give four numbers")],
)
def test_invalid_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        command.main(["x.png", "--out", str(tmp_path), *arguments])
