"""Photo folders as test shards."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from portraits.cameras import angles, label_from_angles, project
from portraits.geometry import STANDARD_LANDMARKS
from shards.builder import build
from shards.index import ShardIndex
from shards.manifest import Manifest
from shards.reader import read_members
from shards.schema import decode, encode
from shards.skips import SKIPPED, load_skips
from shards.sources.wild import WildPortraits, identity_of
from tests.faces import DOTS, DotDetector, FlatRenderer, find_dots

SIZE = 96
TURN = (0.3, 0.1)


class DotPortraits(WildPortraits):
    """Photos whose faces are dots."""

    _detector = DotDetector()
    _renderer = FlatRenderer()


def photo(width: int = 400, height: int = 300, shift: tuple[float, float] = (120.0, 40.0)) -> Image.Image:
    """A photo with a dotted face, whose crop has a side of 200 pixels and its corner at `shift`."""
    image = np.full((height, width, 3), 60, np.uint8)
    places = project(STANDARD_LANDMARKS, label_from_angles(*TURN)) * 200 + shift
    for (x, y), colour in zip(places, DOTS, strict=True):
        cv2.circle(image, (round(x * 16), round(y * 16)), 3 * 16, colour, -1, cv2.LINE_AA, shift=4)
    return Image.fromarray(image)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos in several formats, and files that are not usable photos."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().rotate(90, expand=True).save(root / "turned.jpg", exif=exif, quality=97)
    photo().save(root / "more" / "Ada Lovelace (1).webp", lossless=True)
    photo(300, 420, (40.0, 90.0)).convert("RGBA").save(root / "tall.png")
    Image.effect_noise((300, 300), 20).save(root / "nobody.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8 no")
    (root / "._tall.png").write_bytes(b"\0\5\x16\7")  # macOS's file attributes
    (root / ".DS_Store").write_bytes(b"\0")
    (root / "read me.txt").write_text("holidays")
    photo().resize((12, 12)).save(root / "tiny.png")
    Image.new("RGB", (300, 300), "tan").save(root / "plain.png")
    photo().save(root / "moving.gif")
    photo().save(root / "download", "PNG")
    return root


@pytest.mark.parametrize("align", [True, False])
def test_photos_become_test_frames_and_others_are_listed(folder: Path, tmp_path: Path, align: bool):
    size = SIZE if align else 3 * SIZE  # the dots of an uncropped photo are small
    build(DotPortraits(str(folder), size, align), tmp_path / "out", 0)
    (shard,) = sorted((tmp_path / "out").glob("*.tar"))
    assert shard.name.startswith("test-")
    index = ShardIndex.scan(shard)
    samples = [decode(read_members(shard, index.members(i))) for i in range(len(index))]
    assert {s.meta.attributes["photo"] for s in samples} == {
        *("turned.jpg", "more/Ada Lovelace (1).webp", "tall.png", "download"),
    }
    for sample in samples:
        assert sample.views.shape == sample.conditions.shape == (1, size, size, 3)
        assert np.degrees(np.abs(angles(sample.cameras)[0] - TURN)).max() < 3
        found = (find_dots(sample.views[0]) + 0.5) / size
        assert np.abs(found - project(STANDARD_LANDMARKS, sample.cameras[0])).max() < 0.03
    skipped = {skip.what: skip.reason for skip in load_skips(tmp_path / "out" / SKIPPED)}
    assert skipped["nobody.png"].startswith("no face is found")
    assert skipped["broken.jpg"].startswith("cannot be read as a photo")
    assert skipped["tiny.png"].startswith("12x12 pixels are too few")
    assert skipped["plain.png"].startswith("the image is empty")
    assert skipped["moving.gif"].startswith("cannot be read as a photo")
    assert len(skipped) == 5


NOT_UTF8 = os.fsdecode(b"Jos\xe9.jpg")


@pytest.mark.parametrize(
    "name", ["ada.jpg", "ada/x.png", "Ü.jpg", "a" * 90 + ".jpg", "--.png", "a b.jpg", NOT_UTF8]
)
def test_any_file_name_gives_a_valid_key(name: str, tmp_path: Path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    photo().save(path)
    (sample,) = DotPortraits(str(tmp_path), SIZE).capture(name)
    assert len(sample.key) <= 80
    assert decode(encode(sample)).meta == sample.meta


def test_folder_whose_name_is_not_utf8_is_built(tmp_path: Path):
    root = tmp_path / os.fsdecode(b"Jos\xe9")
    root.mkdir()
    photo().save(root / "ada.png")
    build(DotPortraits(str(root), SIZE), tmp_path / "out", 0)
    assert Manifest.load(tmp_path / "out").settings["root"].endswith(r"Jos\udce9")


@pytest.mark.parametrize("size", [8, 10_000, 10**30])
def test_sizes_beyond_memory_are_refused(folder: Path, size: int):
    with pytest.raises(InputError, match=f"--size {size}: give 16 to 8192 pixels"):
        DotPortraits(str(folder), size)


def test_identities_of_different_photos_differ():
    names = [
        "a/b.jpg",
        "a_b.jpg",
        "a b.jpg",
        "Ü.jpg",
        "Ö.jpg",
        "x" * 60 + "1.jpg",
        "x" * 60 + "2.jpg",
        "a.b.jpg",
    ]
    assert len({identity_of(name) for name in names}) == len(names)
