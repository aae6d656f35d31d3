import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.scaling import Work, clock, main
from benchmarks.simulation import Cluster, simulate
from core.errors import InputError

UNEVEN = np.random.default_rng(3).uniform(1, 9, 50).tolist()


def test_one_worker_takes_the_sum():
    run = simulate(UNEVEN, Cluster(1, startup=7.0))
    assert run.makespan == pytest.approx(7 + sum(UNEVEN))
    assert run.cost == pytest.approx(run.makespan)
    assert run.efficiency == pytest.approx(sum(UNEVEN) / (7 + sum(UNEVEN)))


@pytest.mark.parametrize("workers", [1, 2, 7, 10, 64])
def test_equal_units_are_done_in_rounds(workers: int):
    run = simulate([4.0] * 50, Cluster(workers, startup=3.0))
    assert run.makespan == pytest.approx(3 + math.ceil(50 / workers) * 4)
    assert run.cost == pytest.approx(workers * run.makespan)
    assert run.lost == 0


def test_as_many_workers_as_units_take_the_longest_unit():
    assert simulate(UNEVEN, Cluster(50, startup=2.0)).makespan == pytest.approx(2 + max(UNEVEN))


@pytest.mark.parametrize("workers", [2, 5, 16])
def test_nobody_waits_while_units_are_left(workers: int):
    """Graham's bound of list scheduling."""
    run = simulate(UNEVEN, Cluster(workers))
    assert sum(UNEVEN) / workers <= run.makespan
    assert run.makespan <= sum(UNEVEN) / workers + (1 - 1 / workers) * max(UNEVEN)


def test_slow_workers_take_longer():
    assert simulate(UNEVEN, Cluster(1, slow_share=1.0, slow_factor=3.0)).makespan == pytest.approx(
        3 * sum(UNEVEN)
    )
    # while the slow worker of two does its first unit, the other one does three, and so on
    slow = [number for number in range(20) if slow_workers(number) == 1]
    run = simulate([1.0] * 8, Cluster(2, slow_share=0.5, slow_factor=3.0), seed=slow[0])
    assert run.makespan == pytest.approx(6)


def slow_workers(seed: int) -> int:
    """How many of two workers are slow: both, if eight units take 12, one, if they take 6."""
    makespan = simulate([1.0] * 8, Cluster(2, slow_share=0.5, slow_factor=3.0), seed).makespan
    return {4: 0, 6: 1, 12: 2}[round(makespan)]


@pytest.mark.parametrize(("startup", "notice"), [(0.0, 0.0), (2.0, 1.0)])
def test_expected_time_of_a_unit_matches_the_closed_form_with_deaths(startup: float, notice: float):
    """With a death rate r, a unit of t seconds takes (1/r + restart) (exp(r t) - 1) on average."""
    lifetime, unit, units = 10.0, 6.0, 20_000
    run = simulate([unit] * units, Cluster(1, startup, lifetime=lifetime, notice=notice), seed=1)
    expected = (lifetime + startup + notice) * (math.exp(unit / lifetime) - 1)
    assert run.makespan / units == pytest.approx(expected, rel=0.03)
    assert run.lost / units == pytest.approx(math.exp(unit / lifetime) - 1, rel=0.03)


def test_lost_unit_is_taken_by_a_waiting_worker():
    """Two units on three workers: if one dies, the third starts its unit as soon as the death is noticed."""
    for seed in range(50):
        run = simulate([10.0, 10.0], Cluster(3, lifetime=30.0, notice=2.0, startup=100.0), seed)
        if run.lost == 1:
            break
    assert 112 < run.makespan < 100 + 10 + 2 + 10


def test_runs_are_repeatable_and_seeds_differ():
    cluster = Cluster(4, 1.0, 0.3, 2.0, 60.0, 5.0)
    assert simulate(UNEVEN, cluster, 5) == simulate(UNEVEN, cluster, 5)
    assert len({simulate(UNEVEN, cluster, seed).makespan for seed in range(5)}) == 5


def test_durations_have_the_mean_and_the_variation_of_their_job():
    durations = Work("many", 100_000, 30.0, 0.0, 0.4).durations(0)
    assert durations.mean() == pytest.approx(30, rel=0.01)
    assert durations.std() == pytest.approx(12, rel=0.02)
    assert Work("same", 3, 30.0, 0.0, 0.0).durations(0).tolist() == pytest.approx([30, 30, 30])


def test_table_and_picture_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(scaling, "JOBS", (Work("toy", 10, 360.0, 40.0, 0.0),))
    main(["--workers=[1,5]", "--lifetime=1e9", "--slow_share=0", f"--picture={tmp_path / 'a.png'}"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[2] == "| toy | 1 | 1:00:40 | 99% | 1:00:40 | 99% | 1.0 | 0 |"
    assert rows[3] == "| toy | 5 | 0:12:40 | 95% | 0:12:40 | 95% | 1.1 | 0 |"
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert clock(3661) == "1:01:01"
    with pytest.raises(InputError, match="--lifetime above 0"):
        main(["--lifetime=0"])
