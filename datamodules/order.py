"""The order of the training stream, as pure functions of (seed, epoch, position).

Positions are divided into blocks, in each of which every source appears in proportion to its weight,
shuffled. The n-th appearance of a source is its turn n; its turns run through its epochs, each a permutation
of its frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from core.seeding import numpy_generator

BLOCK = 1000

IntArray = NDArray[np.int64]


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Divide `total` by weight into integers, none of which decreases as `total` grows (Webster's method)."""
    exact = [Fraction(weight) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    counts = [int(total * share + Fraction(1, 2)) for share in shares]
    everyone = range(len(shares))
    while sum(counts) < total:
        counts[max(everyone, key=lambda i: shares[i] / (2 * counts[i] + 1))] += 1
    while sum(counts) > total:
        counts[min((i for i in everyone if counts[i]), key=lambda i: shares[i] / (2 * counts[i] - 1))] -= 1
    return counts


@dataclass(frozen=True)
class Mixture:
    """The source at each position."""

    weights: tuple[float, ...]
    seed: int

    def turn(self, position: int) -> tuple[int, int]:
        """(source, turn) at a position: the source, and the number of its earlier appearances."""
        block, place = divmod(position, BLOCK)
        sources, turns = _block(self.weights, self.seed, block)
        return int(sources[place]), int(turns[place])


@lru_cache(maxsize=8)
def _block(weights: tuple[float, ...], seed: int, block: int) -> tuple[IntArray, IntArray]:
    before = apportion(block * BLOCK, weights)
    after = apportion((block + 1) * BLOCK, weights)
    sources = np.repeat(np.arange(len(weights)), np.subtract(after, before))
    numpy_generator(seed, "mixture", block).shuffle(sources)
    turns = np.empty(BLOCK, dtype=np.int64)
    for source, first in enumerate(before):
        places = sources == source
        turns[places] = first + np.arange(places.sum())
    return sources, turns


@dataclass(frozen=True)
class EpochOrder:
    """The order of the frames of one source, epoch by epoch.

    `counts` are the numbers of frames of its shards; frames are numbered across shards. In each epoch the
    shards are permuted and divided into groups of `shuffle_shards`, and the frames of a group are permuted
    together, so that few shards of a large source are read at a time and a small source is fully shuffled.
    """

    name: str
    counts: tuple[int, ...]
    seed: int
    shuffle_shards: int

    def frame(self, turn: int) -> int:
        """The number of the frame at a turn."""
        epoch, place = divmod(turn, sum(self.counts))
        ends = _group_ends(self, epoch)
        group = int(np.searchsorted(ends, place, side="right"))
        start = int(ends[group - 1]) if group else 0
        return int(_group(self, epoch, group)[place - start])


@lru_cache(maxsize=16)
def _shards(order: EpochOrder, epoch: int) -> IntArray:
    return numpy_generator(order.seed, "shards", order.name, epoch).permutation(len(order.counts))


@lru_cache(maxsize=16)
def _group_ends(order: EpochOrder, epoch: int) -> IntArray:
    counts = np.asarray(order.counts, dtype=np.int64)[_shards(order, epoch)]
    starts = np.arange(0, len(counts), order.shuffle_shards)
    return np.cumsum(np.add.reduceat(counts, starts))


@lru_cache(maxsize=16)
def _group(order: EpochOrder, epoch: int, group: int) -> IntArray:
    first = [0, *accumulate(order.counts)]
    shards = _shards(order, epoch)[group * order.shuffle_shards :][: order.shuffle_shards]
    frames = np.concatenate([np.arange(first[shard], first[shard + 1]) for shard in shards])
    return numpy_generator(order.seed, "frames", order.name, epoch, group).permutation(frames)


@dataclass(frozen=True)
class Draw:
    """The views of a frame that are its references and its targets, in shuffled order (section 3.4)."""

    references: tuple[int, ...]
    targets: tuple[int, ...]


def draw_views(random: np.random.Generator, views: int, references: int, targets: int) -> Draw:
    """Draw distinct references and targets from a frame's `views` views, which must be enough."""
    chosen = random.permutation(views)[: references + targets].tolist()
    return Draw(tuple(chosen[:references]), tuple(chosen[references:]))


def draw_reconstruction(random: np.random.Generator, views: int, references: int) -> Draw:
    """Draw the references of a frame, which are also its targets."""
    chosen = tuple(random.permutation(views)[:references].tolist())
    return Draw(chosen, chosen)
