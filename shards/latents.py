"""latents.npz: the VAE's posterior moments of a sample's views and mirrored views, and the VAE's fingerprint.

K views, C latent channels, H W latent size. The file is an uncompressed NumPy archive, read by a safe parser
without pickles.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.arrays import parse_npy
from core.fingerprints import of_tensors
from shards.schema import SampleError

if TYPE_CHECKING:
    from torch import nn

FINGERPRINT = "fingerprint"
ARRAYS = ("views", "mirrored")
MAX_BYTES = 1 << 28
BATCH = 32  # images that are encoded at a time by default
# Raised by zipfile for damaged archives; RuntimeError where a flag says that a member is encrypted.
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, OSError, RuntimeError)
EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Latents:
    """Posterior moments (K, 2C, H, W) float16 of the views and of the mirrored views.

    They are the mean and the log variance before the scaling factor. Those of a mirrored image differ from
    the flipped moments of the image. `fingerprint` identifies the VAE.
    """

    fingerprint: str
    views: NDArray[np.float16]
    mirrored: NDArray[np.float16]


def vae_fingerprint(vae: "nn.Module") -> str:
    """The fingerprint of a VAE's encoder, the same in half and in full precision."""
    own = ("encoder.", "quant_conv.")
    return of_tensors({name: value for name, value in vae.state_dict().items() if name.startswith(own)})


def encode_latents(latents: Latents) -> bytes:
    """Encode latents as the content of latents.npz. Deterministic."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        arrays = {
            FINGERPRINT: np.frombuffer(latents.fingerprint.encode("ascii"), np.uint8),
            "views": np.ascontiguousarray(latents.views, "<f2"),
            "mirrored": np.ascontiguousarray(latents.mirrored, "<f2"),
        }
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), data.getvalue())
    return file.getvalue()


def decode_latents(data: bytes, count: int) -> Latents:
    """Decode the latents of a sample of `count` views. Raises SampleError for data not written by
    `encode_latents`."""
    with _opened(data) as archive:
        name = _fingerprint(archive)
        views, mirrored = (parse_npy(archive.read(f"{array}.npy")) for array in ARRAYS)
    for moments in (views, mirrored):
        if moments.dtype != np.dtype("<f2") or moments.ndim != 4 or len(moments) != count:
            raise SampleError(f"its latents are {moments.dtype} {moments.shape}")
    if views.shape != mirrored.shape or views.shape[1] % 2:
        raise SampleError(f"its latents are {views.shape} and {mirrored.shape}")
    return Latents(name, views.astype(np.float16, copy=False), mirrored.astype(np.float16, copy=False))


def fingerprint_of(data: bytes) -> str:
    """The fingerprint of the VAE of a sample's latents. Raises SampleError, as `decode_latents`."""
    with _opened(data) as archive:
        return _fingerprint(archive)


@contextmanager
def _opened(data: bytes) -> Iterator[zipfile.ZipFile]:
    """Open the archive and check that it holds the expected arrays, uncompressed. Errors in the block are
    raised as SampleError."""
    if len(data) > MAX_BYTES:
        raise SampleError(f"its latents have {len(data)} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if set(members) != {f"{name}.npy" for name in (FINGERPRINT, *ARRAYS)}:
                raise SampleError("its latents hold other arrays than expected")
            if any(
                i.compress_type != zipfile.ZIP_STORED or i.file_size > len(data) for i in members.values()
            ):
                raise SampleError("its latents are compressed")
            yield archive
    except SampleError:
        raise
    except DAMAGE as error:
        raise SampleError(f"its latents do not decode: {error}") from error


def _fingerprint(archive: zipfile.ZipFile) -> str:
    letters = parse_npy(archive.read(f"{FINGERPRINT}.npy"))
    if letters.dtype != np.uint8 or letters.shape != (16,):
        raise SampleError("its latents have no fingerprint")
    return letters.tobytes().decode("ascii", "replace")
