"""Random draws as a function of where training is, so that a resumed run draws what it would have drawn."""

import hashlib

import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose state is a function of `key` alone, e.g. (seed, "noise", step, rank)."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def normal(shape: torch.Size | tuple[int, ...], draw: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal noise of `shape`, drawn on the CPU so that every device sees the same; dtype and device as `like`."""
    return torch.randn(tuple(shape), generator=draw).to(like.device, like.dtype)
