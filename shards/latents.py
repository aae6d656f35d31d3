"""latents.npz: the VAE's posterior moments of a sample's views and conditions, and which VAE made them.

K views, C latent channels, H W latent size. The file is a NumPy archive without compression; it is read
without pickles, and only as far as its size and headers say what they should.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shards.schema import SampleError

FINGERPRINT = "fingerprint"
ARRAYS = ("views", "conditions")
MAX_BYTES = 1 << 28
SAMPLED = 512
EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Latents:
    """Moments (K, 2C, H, W) float16 of views and conditions: mean, then log variance, before the scaling
    factor. `fingerprint` names the VAE."""

    fingerprint: str
    views: NDArray[np.float16]
    conditions: NDArray[np.float16]


@torch.no_grad()
def vae_fingerprint(vae: nn.Module) -> str:
    """Sixteen characters that tell a VAE's encoder from others, the same in half and in full precision."""
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            flat = value.flatten()
            sampled = flat[:: max(len(flat) // SAMPLED, 1)].half().cpu()
            digest.update(f"{name}{tuple(value.shape)}".encode() + sampled.numpy().tobytes())
    return digest.hexdigest()[:16]


def encode_latents(latents: Latents) -> bytes:
    """The bytes of latents.npz, the same for the same latents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        arrays = {
            FINGERPRINT: np.frombuffer(latents.fingerprint.encode("ascii"), np.uint8),
            "views": np.ascontiguousarray(latents.views, "<f2"),
            "conditions": np.ascontiguousarray(latents.conditions, "<f2"),
        }
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), data.getvalue())
    return file.getvalue()


def decode_latents(data: bytes, count: int) -> Latents:
    """The latents of a sample of `count` views. Raises SampleError for anything else than `encode_latents`
    writes."""
    if len(data) > MAX_BYTES:
        raise SampleError(f"its latents have {len(data)} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = {info.filename: info for info in archive.infolist()}
            if set(names) != {f"{name}.npy" for name in (FINGERPRINT, *ARRAYS)}:
                raise SampleError("its latents hold other arrays than they should")
            if any(i.compress_type != zipfile.ZIP_STORED or i.file_size > len(data) for i in names.values()):
                raise SampleError("its latents are compressed")
            fingerprint, views, conditions = (
                np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
                for name in (FINGERPRINT, *ARRAYS)
            )
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(f"its latents do not decode: {error}") from error
    if fingerprint.dtype != np.uint8 or fingerprint.shape != (16,):
        raise SampleError("its latents have no fingerprint")
    for array in (views, conditions):
        if array.dtype != np.float16 or array.ndim != 4 or len(array) != count or array.shape[1] % 2:
            raise SampleError(f"its latents are {array.dtype} {array.shape}")
    if views.shape != conditions.shape:
        raise SampleError(f"its latents are {views.shape} and {conditions.shape}")
    return Latents(fingerprint.tobytes().decode("ascii", "replace"), views, conditions)
