"""Selection of frames, and the participants held out of training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.seeding import numpy_generator
from shards.sources.nersemble.layouts import Take
from shards.sources.splits import Shares, split_by_hash

# Participants in public benchmarks: a model trained on them could not be compared there.
NVS_BENCHMARK = (388, 422, 443, 445, 475)
MONO_AVATAR_BENCHMARK = (393, 404, 461, 477, 486)
SINGLE_VIEW_BENCHMARK = (
    *(17, 60, 71, 102, 112, 123, 133, 139, 175, 178, 183, 194, 215, 226, 256, 266, 289, 310, 320, 372),
)
PAPER_HOLD_OUT = (18, 30, 38, 85, 97, 124, 175, 226, 227, 240)
HELD_OUT = frozenset(
    f"{number:03d}"
    for numbers in (NVS_BENCHMARK, MONO_AVATAR_BENCHMARK, SINGLE_VIEW_BENCHMARK, PAPER_HOLD_OUT)
    for number in numbers
)


@dataclass(frozen=True)
class Pick:
    """One unit of work: a take of one split, and the positions of its frames, ascending in [0, 1) of its
    length."""

    take: Take
    split: str
    places: tuple[float, ...]


def split_of(participant: str, shares: Shares) -> str:
    """The split of a participant ("018"): test for those in public benchmarks, for others by a hash of the
    number, so that participants downloaded later do not change the others' splits."""
    if participant in HELD_OUT:
        return "test"
    return split_by_hash(f"nersemble {participant}", shares)


def pick_frames(takes: Sequence[Take], frames: dict[str, int], shares: Shares, seed: int) -> list[Pick]:
    """About `frames[split]` frames of each split, spread evenly over its participants, over each
    participant's sequences, and over the length of each take."""
    picks: list[Pick] = []
    for split, wanted in frames.items():
        people: dict[str, list[Take]] = {}
        for take in takes:
            if split_of(take.participant, shares) == split:
                people.setdefault(take.participant, []).append(take)
        random = numpy_generator(seed, list(frames).index(split))
        order = random.permutation(len(people))
        names = [list(people)[i] for i in order]
        for name, share in zip(names, _even(wanted, len(names)), strict=True):
            own = people[name]
            shuffled = [own[i] for i in random.permutation(len(own))]
            for take, count in zip(shuffled, _even(share, len(own)), strict=True):
                if count:
                    places = (np.arange(count) + random.uniform(0.1, 0.9, count)) / count
                    picks.append(Pick(take, split, tuple(np.round(places, 6).tolist())))
    return sorted(picks, key=lambda pick: (pick.split, pick.take.participant, pick.take.sequence))


def instants_at(places: Sequence[float], instants: Sequence[int]) -> list[int]:
    """The instants at relative positions of a take, without repeats."""
    count = len(instants)
    return sorted({instants[min(int(place * count), count - 1)] for place in places}) if count else []


def _even(total: int, parts: int) -> list[int]:
    """Divide `total` into `parts` integers that differ by at most 1, the larger ones first."""
    return [total // parts + (part < total % parts) for part in range(parts)] if parts else []
