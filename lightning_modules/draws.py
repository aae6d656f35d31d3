"""Random draws as a function of where training is, so that a resumed run draws what it would have drawn."""

import hashlib

import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose state is a function of `key` alone, e.g. (seed, "noise", step, rank)."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def normal(shape: torch.Size | tuple[int, ...], draw: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal noise of `shape`, in dtype and on the device of `like`.

    It is drawn on the CPU, so that every device sees the same.
    """
    return torch.randn(tuple(shape), generator=draw).to(like.device, like.dtype)


def spread_timesteps(count: int, total: int, draw: torch.Generator) -> Tensor:
    """`count` timesteps (count,) below `total`, uniform, one from each of `count` equal parts in random
    order.

    The mean of a loss over them varies less than over independent ones.
    """
    parts = torch.randperm(count, generator=draw) + torch.rand(count, generator=draw)
    return (parts * (total / count)).long().clamp(max=total - 1)
