from collections import Counter

import numpy as np
import pytest

from core.seeding import numpy_generator
from datamodules.order import BLOCK, EpochOrder, Mixture, apportion, draw_views


@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.5), (1.0, 1.0, 1.0), (0.7, 0.2, 0.1, 1e-4), (3.0, 1e-9)])
def test_apportion_is_exact_fair_and_monotonic(weights: tuple[float, ...]) -> None:
    before = [0] * len(weights)
    for total in range(0, 5000, 37):
        counts = apportion(total, weights)
        assert sum(counts) == total
        assert all(now >= then for now, then in zip(counts, before, strict=True))
        ideal = np.array(weights) / sum(weights) * total
        assert np.abs(counts - ideal).max() <= 1
        before = counts


def test_mixture_keeps_its_weights_in_every_block() -> None:
    mixture = Mixture((0.5, 0.5), seed=3)
    turns = [mixture.turn(position) for position in range(3 * BLOCK)]
    for block in range(3):
        assert Counter(source for source, _ in turns[block * BLOCK :][:BLOCK]) == {0: 500, 1: 500}
    for source in (0, 1):
        assert [turn for s, turn in turns if s == source] == list(range(1500))
    assert turns[:100] != [Mixture((0.5, 0.5), seed=4).turn(position) for position in range(100)]


@pytest.mark.parametrize("shuffle_shards", [1, 2, 100])
def test_epochs_are_different_permutations(shuffle_shards: int) -> None:
    order = EpochOrder("a", (3, 5, 1, 9), seed=0, shuffle_shards=shuffle_shards)
    epochs = [[order.frame(18 * epoch + place) for place in range(18)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(18)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_few_shards_are_read_at_a_time() -> None:
    order = EpochOrder("a", (10,) * 8, seed=0, shuffle_shards=2)
    shards = [order.frame(turn) // 10 for turn in range(240)]
    groups = {frozenset(shards[start : start + 20]) for start in range(0, 240, 20)}
    assert {len(group) for group in groups} == {2}
    assert len(groups) > 4  # which shards are shuffled together changes from epoch to epoch


def test_order_is_platform_independent() -> None:
    assert [EpochOrder("a", (4, 4), 0, 8).frame(turn) for turn in range(8)] == [4, 6, 7, 5, 2, 3, 1, 0]
    assert numpy_generator(1, "views", 7).permutation(6).tolist() == [2, 1, 0, 5, 4, 3]


def test_drawn_views_are_distinct_and_shuffled() -> None:
    draws = [draw_views(numpy_generator(0, position), 12, 2, 8) for position in range(200)]
    assert all(len({*draw.references, *draw.targets}) == 10 for draw in draws)
    assert {draw.references[0] for draw in draws} == {draw.targets[0] for draw in draws} == set(range(12))
