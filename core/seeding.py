"""Random generators whose state is a function of a key, so that a resumed run repeats its draws."""

import hashlib
import zlib

import numpy as np
import torch
from torch import Tensor


def torch_generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose state is a function of `key` alone, e.g. (seed, "noise", step, rank)."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def numpy_generator(seed: int, *key: int | str) -> np.random.Generator:
    """A NumPy generator whose state is a function of `seed` and `key` alone."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.default_rng([seed, *numbers])


def normal(shape: torch.Size | tuple[int, ...], draw: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal noise of `shape`, in dtype and on the device of `like`.

    It is drawn on the CPU, so that every device sees the same.
    """
    return torch.randn(tuple(shape), generator=draw).to(like.device, like.dtype)


def spread_timesteps(count: int, total: int, draw: torch.Generator, shift: float = 1.0) -> Tensor:
    """`count` timesteps (count,) below `total`, one from each of `count` equal parts in random order.

    The mean of a loss over them varies less than over independent ones. They are uniform, or with a `shift`
    above 1 denser where there is more noise: u becomes shift * u / (1 + (shift - 1) * u), as Stable
    Diffusion 3 shifts them.
    """
    parts = torch.randperm(count, generator=draw) + torch.rand(count, generator=draw)
    parts = parts / count
    parts = shift * parts / (1 + (shift - 1) * parts)
    return (parts * total).long().clamp(max=total - 1)
