"""Photos as people have them → upright 8-bit RGB."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.errors import InputError

MAX_PIXELS = 170_000_000
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
HEIC = (".heic", ".heif")
MATTE = (255, 255, 255)


def open_photo(path: Path) -> Image.Image:
    """The photo at `path`, turned as its EXIF data says, as RGB; transparent parts become white.

    Its size is checked before anything is decoded. HEIC takes the package pillow-heif. Raises InputError for
    what is no photo, is damaged, or is larger than MAX_PIXELS."""
    with _opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height of the photo as it is stored, of which nothing is decoded. Raises InputError as
    `open_photo` does."""
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
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = str(error) if path.is_file() else "there is no such file"
        raise InputError(f"{path}: cannot be read as a photo ({reason})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes to 8-bit RGB, transparency over white, 16-bit grey scaled down."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.clip(np.round(values / 257.0), 0, 255).astype(np.uint8))
    if image.mode == "F":
        image = Image.fromarray(np.clip(np.nan_to_num(np.asarray(image)), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        ground = Image.new("RGBA", opaque.size, (*MATTE, 255))
        image = Image.alpha_composite(ground, opaque)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def photo_files(folder: Path) -> list[Path]:
    """The photos below a folder, by name. Raises InputError where it is none or has none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"{folder}: no photos in it ({', '.join(SUFFIXES)})")
    return found


def _formats(path: Path) -> list[str]:
    """Pillow's names of the formats that a file of this name may have."""
    Image.init()
    if path.suffix.lower() not in HEIC:
        return [name for name in FORMATS if name in Image.OPEN]
    if find_spec("pillow_heif") is None:
        raise InputError(f"{path}: HEIC takes one more package: pip install pillow-heif")
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return ["HEIF"]
