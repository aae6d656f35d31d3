import io
import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image, ImageCms

from core.errors import InputError
from portraits.alignment.photos import open_photo, photo_files, upright_rgb
from portraits.image_folders import view_files


@pytest.fixture
def picture() -> Image.Image:
    """60×40 pixels, the upper half red, the lower half blue."""
    values = np.zeros((40, 60, 3), np.uint8)
    values[:20, :, 0] = values[20:, :, 2] = 230
    return Image.fromarray(values)


def png_that_claims(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims a large size."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    data = file.getvalue()
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def assert_upright(image: Image.Image) -> None:
    assert (image.size, image.mode) == ((60, 40), "RGB")
    assert np.abs(np.array(image)[5, 30].astype(int) - (230, 0, 0)).max() < 25
    assert np.abs(np.array(image)[35, 30].astype(int) - (0, 0, 230)).max() < 25


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(tmp_path, picture, orientation):
    turned = picture.rotate({1: 0, 3: 180, 6: 90, 8: -90}[orientation], expand=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "a.jpg", exif=exif, quality=98)
    once = open_photo(tmp_path / "a.jpg")
    assert_upright(once)
    np.testing.assert_array_equal(upright_rgb(once), once)


ODD_EXIF = {
    "XResolution as text": (0x011A, 2, 3, b"72\0\0"),
    "camera model as numbers": (0x0110, 3, 2, struct.pack("<HH", 12, 34)),
    "ResolutionUnit as text": (0x0128, 2, 2, b"2\0\0\0"),
    "ResolutionUnit beyond 16 bits": (0x0128, 4, 1, struct.pack("<I", 70000)),
}


def exif_block(entry: tuple[int, int, int, bytes]) -> bytes:
    """A little-endian EXIF block of orientation 6 and one more entry (tag, type, count, value)."""
    entries = sorted([(0x0112, 3, 1, struct.pack("<HH", 6, 0)), entry])
    body = b"".join(struct.pack("<HHI", *numbers) + value for *numbers, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0)


@pytest.mark.filterwarnings("ignore:Metadata Warning")  # by Pillow, on the malformed entry
@pytest.mark.parametrize("entry", ODD_EXIF.values(), ids=ODD_EXIF)
def test_malformed_exif_entries_are_ignored(tmp_path, picture, entry):
    picture.rotate(90, expand=True).save(tmp_path / "a.jpg", exif=exif_block(entry), quality=98)
    assert_upright(open_photo(tmp_path / "a.jpg"))


def swapped_profile() -> bytes:
    """An ICC profile with red and blue primaries swapped."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    names = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    table = data[132 : 132 + 12 * struct.unpack(">I", data[128:132])[0]]
    entries = [table[start : start + 12] for start in range(0, len(table), 12)]
    swapped = b"".join(names.get(entry[:4], entry[:4]) + entry[4:] for entry in entries)
    return data[:132] + swapped + data[132 + len(table) :]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_icc_profiles_are_converted_to_srgb(tmp_path, picture, name):
    other = Image.merge("RGB", picture.split()[::-1])
    other.save(tmp_path / name, icc_profile=swapped_profile(), quality=98)
    once = open_photo(tmp_path / name)
    assert_upright(once)
    np.testing.assert_array_equal(upright_rgb(once), once)


def test_damaged_icc_profile_is_ignored(tmp_path, picture):
    picture.save(tmp_path / "a.png", icc_profile=b"no profile")
    assert_upright(open_photo(tmp_path / "a.png"))


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.bmp", "a.tif"])
def test_supported_formats(tmp_path, picture, name):
    picture.save(tmp_path / name)
    assert_upright(open_photo(tmp_path / name))


def test_cmyk_and_palettes(tmp_path, picture):
    picture.convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    picture.quantize(8).save(tmp_path / "b.png")
    assert_upright(open_photo(tmp_path / "a.jpg"))
    assert_upright(open_photo(tmp_path / "b.png"))


def test_transparent_pixels_become_white(tmp_path, picture):
    picture.putalpha(Image.fromarray(np.full((40, 60), 0, np.uint8)))
    picture.save(tmp_path / "a.png")
    assert (np.array(open_photo(tmp_path / "a.png")) == 255).all()


def test_16_bit_images_are_scaled_to_8_bit(tmp_path):
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    shown = np.array(open_photo(tmp_path / "a.png"))[..., 0]
    np.testing.assert_allclose(shown, values / 257, atol=1)


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_heic_without_its_package_names_the_package(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(InputError, match="pip install pillow-heif"):
        open_photo(tmp_path / "a.heic")


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif is not installed")
def test_heic(tmp_path, picture):
    from pillow_heif import register_heif_opener

    register_heif_opener()
    picture.save(tmp_path / "a.heic", "HEIF", quality=95)
    assert_upright(open_photo(tmp_path / "a.heic"))


@pytest.mark.slow
def test_decoding_a_large_photo_takes_one_copy_of_memory(tmp_path):
    side = 9000
    Image.new("RGB", (side, side), (90, 120, 150)).save(tmp_path / "a.jpg", quality=50)
    script = (
        "import resource, sys; from pathlib import Path; from portraits.alignment.photos import open_photo;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); image = open_photo(Path(sys.argv[1]));"
        "print(image.size, 1024 * (peak() - before))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.jpg")], capture_output=True, text=True, check=True
    ).stdout
    size, _, taken = printed.strip().rpartition(" ")
    assert size == f"({side}, {side})"
    assert int(taken) < 1.6 * 4 * side**2  # Pillow keeps four bytes a pixel


def test_size_is_checked_before_decoding(tmp_path):
    for name, side in (("a.png", 13_100), ("b.png", 60_000)):
        (tmp_path / name).write_bytes(png_that_claims(side, side))
        with pytest.raises(InputError, match="too many"):
            open_photo(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"not a photo", b"\xff\xd8\xff\xe0 cut off", b"P6 9 9 255\n"])
def test_files_that_are_no_photo_are_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read as a photo"):
        open_photo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="there is no such file"):
        open_photo(tmp_path / "b.jpg")


def test_truncated_photo_is_refused(tmp_path, picture):
    picture.resize((600, 400)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be read as a photo"):
        open_photo(tmp_path / "a.jpg")


def test_damaged_avif_is_refused(tmp_path, picture):
    """Its decoder raises RuntimeError, which no other one does."""
    picture.save(tmp_path / "a.avif")
    good = (tmp_path / "a.avif").read_bytes()
    refused = 0
    for place in range(0, len(good), 3):
        data = bytearray(good)
        data[place] ^= 0xFF
        (tmp_path / "b.avif").write_bytes(data)
        try:
            open_photo(tmp_path / "b.avif")
        except InputError:
            refused += 1
    assert refused > 20


def test_photo_files_searches_recursively(tmp_path, picture):
    (tmp_path / "more").mkdir()
    for name in ("b.jpg", "a.PNG", "more/c.webp"):
        picture.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "._b.jpg").write_bytes(b"\0\5\x16\7")  # macOS's file attributes
    assert [path.name for path in photo_files(tmp_path)] == ["a.PNG", "b.jpg", "c.webp"]
    assert [path.name for path in view_files(tmp_path, "conditions")] == ["a.PNG", "b.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no photos"):
        photo_files(tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder"):
        photo_files(tmp_path / "none")
