"""Reading of photos: any image file or Pillow image to upright 8-bit sRGB."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from core.errors import InputError

MAX_PIXELS = 170_000_000
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
HEIC = (".heic", ".heif")
MATTE = (255, 255, 255)
# How an image of each EXIF orientation is turned upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
APPLE_DOUBLE = "._"  # prefix of macOS attribute files on other file systems


def open_photo(path: Path) -> Image.Image:
    """Read a photo and convert it with `upright_rgb`.

    Its size is checked before decoding. HEIC needs the package pillow-heif. Raises InputError if the file is
    not a photo, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    with _opened(path) as image:
        return upright_rgb(image)


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height of a photo as stored, without decoding it. Raises InputError as `open_photo`."""
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=_formats(path)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width}x{image.height} pixels are too many: scale it down")
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: far too many pixels: scale it down") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: cannot be read as a photo (none of {', '.join(FORMATS)})") from error
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error) as error:
        reason = str(error) if path.is_file() else "there is no such file"
        raise InputError(f"{path}: cannot be read as a photo ({reason})") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to 8-bit sRGB and apply its EXIF orientation.

    Transparency is blended over white, 16-bit values are scaled, and an embedded colour profile is applied
    unless it is damaged.
    """
    orientation = UPRIGHT.get(_orientation(image) or 0)
    rgb = _to_srgb(_to_8_bits(image), image.info.get("icc_profile"))
    rgb = rgb if orientation is None else rgb.transpose(orientation)
    if rgb is not image:
        rgb.info = {}  # the orientation and the profile have been applied
    return rgb


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation. Other entries are not read, as Pillow fails on some that cameras write."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
        return value if isinstance(value, int) else None
    except (SyntaxError, ValueError, TypeError, OSError, OverflowError, struct.error):
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.round(values / 257.0), 0, 255).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(np.clip(np.nan_to_num(np.asarray(image)), 0, 255).astype(np.uint8))
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An 8-bit image as RGB over white, in sRGB."""
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        ground = Image.new("RGBA", opaque.size, (*MATTE, 255))
        image = Image.alpha_composite(ground, opaque)
    if profile is not None and (converted := _converted(image, profile)) is not None:
        return converted
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def _converted(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in sRGB; None if the profile is damaged or does not match the image's mode."""
    image = image if image.mode in ("RGB", "CMYK", "L") else image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def photo_files(folder: Path) -> list[Path]:
    """The photos below a folder, sorted by name. Raises InputError if it is missing or has none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found = sorted(path for path in folder.rglob("*") if is_photo(path))
    if not found:
        raise InputError(f"{folder}: no photos in it ({', '.join(SUFFIXES)})")
    return found


def is_photo(path: Path) -> bool:
    """Whether a path is a file with the suffix of a photo. macOS attribute files (`._NAME`) are excluded."""
    named = path.suffix.lower() in SUFFIXES and not path.name.startswith(APPLE_DOUBLE)
    return named and path.is_file()


def _formats(path: Path) -> list[str]:
    """Pillow's names of the formats to try for a file of this name."""
    Image.init()
    if path.suffix.lower() not in HEIC:
        return [name for name in FORMATS if name in Image.OPEN]
    if find_spec("pillow_heif") is None:
        raise InputError(f"{path}: HEIC needs one more package: pip install pillow-heif")
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return ["HEIF"]
