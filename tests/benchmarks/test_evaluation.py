import pytest

from benchmarks.evaluation import benchmark, table
from core.errors import InputError


def test_table_shows_seconds_and_shares():
    lines = table(9.0, {"PSNR": 0.25, "ID": 0.75}, 2).splitlines()[2:]
    assert lines[0] == "| sampling | 4.500 | 90.0% |"
    assert lines[1] == "| scoring | 0.500 | 10.0% |"
    assert lines[3] == "| of it ID | 0.375 | 7.5% |"


def test_too_few_steps_are_an_input_error():
    with pytest.raises(InputError, match="--steps 3"):
        benchmark(steps=3)
