"""Random generators seeded by a key, so that a resumed run repeats its draws."""

import hashlib
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
# consecutive positions of a training stream that share the random offset of their timesteps
STREAM_BLOCK = 1024


def torch_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by `key`, such as (seed, "noise", step, rank)."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def numpy_generator(seed: int, *key: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `seed` and `key`."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.default_rng([seed, *numbers])


def normal(shape: torch.Size | tuple[int, ...], draw: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal noise of `shape`, in dtype and on the device of `like`.

    It is drawn on the CPU, so that it is the same on every device.
    """
    return torch.randn(tuple(shape), generator=draw).to(like.device, like.dtype)


def normal_by_row(
    shape: torch.Size | tuple[int, ...], draws: Sequence[torch.Generator], like: Tensor
) -> Tensor:
    """Standard normal noise of `shape` (B, …), row b drawn from generator b; see `normal`."""
    return torch.stack([normal(tuple(shape[1:]), draw, like) for draw in draws])


def stream_generators(seed: int | str, positions: Sequence[int]) -> list[torch.Generator]:
    """A generator for each position of a training stream, so that the draws for a frame do not depend on how
    frames are divided into batches and ranks."""
    return [torch_generator(seed, "stream", position) for position in positions]


def stream_timesteps(
    seed: int | str, positions: Sequence[int], count: int, total: int, shift: float = 1.0
) -> Tensor:
    """`count` timesteps (B, count) below `total` for each of B positions of a training stream.

    They depend on `seed` and the positions only. Successive positions advance by the golden ratio, from a
    random offset for each `STREAM_BLOCK` positions: any run of neighbours covers the schedule evenly, which
    lowers the variance of the mean loss. The marginal distribution is uniform, or with a `shift` above 1
    denser where there is more noise (Stable Diffusion 3): u becomes shift * u / (1 + (shift - 1) * u).
    """
    rows = []
    for position in positions:
        block = torch_generator(seed, "timesteps", position // STREAM_BLOCK)
        start = torch.rand(1, dtype=torch.float64, generator=block)
        index = position % STREAM_BLOCK * count + torch.arange(count, dtype=torch.float64)
        rows.append((start + index * GOLDEN_RATIO).remainder(1))
    places = torch.stack(rows)
    places = shift * places / (1 + (shift - 1) * places)
    return (places * total).long().clamp(max=total - 1)
