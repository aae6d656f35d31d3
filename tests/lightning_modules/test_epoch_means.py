"""Means over an epoch do not depend on how frames are split into batches and ranks."""

import pytest
import torch

from lightning_modules.epoch_means import EpochMeans

VALUES = torch.tensor([1.0, 2.0, 4.0, float("nan"), 16.0])
WEIGHTS = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
MEAN = 23 / 4


def means_of(places: list[int], size: int) -> EpochMeans:
    means = EpochMeans()
    for batch in torch.tensor(places).split(size):
        means.add("loss", VALUES[batch], WEIGHTS[batch])
        means.add("never", VALUES[batch], torch.zeros(len(batch)))
    return means


@pytest.mark.parametrize("size", [1, 2, 5])
def test_mean_does_not_depend_on_batches(size: int):
    assert means_of([0, 1, 2, 3, 4], size).compute() == {"loss": MEAN}


@pytest.mark.parametrize("ranks", [[[0, 1, 2], [3, 4]], [[3], [0], [1, 2, 4]]])
def test_mean_does_not_depend_on_ranks(ranks: list[list[int]]):
    own = [means_of(places, 2) for places in ranks]
    totals: list[torch.Tensor] = []
    for means in own:
        means.compute(lambda x: totals.append(x.clone()) or x)
    assert all(means.compute(lambda _: sum(totals)) == {"loss": MEAN} for means in own)


def test_reset_starts_a_new_epoch():
    means = means_of([0, 1], 1)
    means.reset()
    assert means.compute() == {}
    means.add("loss", VALUES[2:3], WEIGHTS[2:3])
    assert means.compute() == {"loss": 4.0}


def test_large_sums_keep_small_differences():
    means = EpochMeans()
    for _ in range(1000):
        means.add("loss", torch.tensor([1e4, 1e4 + 1e-3]), torch.ones(2))
    expected = torch.tensor([1e4, 1e4 + 1e-3]).double().mean().item()
    assert means.compute()["loss"] == pytest.approx(expected, abs=1e-9)
