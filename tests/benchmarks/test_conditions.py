import re

import pytest

from benchmarks.conditions import main
from core.errors import InputError


@pytest.mark.slow
def test_cost_and_noise_of_each_way_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size=32", "--views=1", "--frames=2"])
    rows = capsys.readouterr().out.splitlines()[2:]
    found = [re.findall(r"\d+\.\d", row) for row in rows]
    assert [len(values) for values in found] == [4, 4, 4]
    traced, *baked = [[float(value) for value in values] for values in found]
    assert traced[1] == 1.0
    assert all(least >= 30 for *_, least in baked)  # the target is 33 for the frontal view
    with pytest.raises(InputError, match="at least 1 of --views"):
        main(["--views=0"])
