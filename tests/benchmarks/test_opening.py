import re

import pytest

from benchmarks.opening import main
from core.errors import InputError


@pytest.mark.slow
@pytest.mark.parametrize("distinct", ["true", "false"])
def test_time_and_memory_are_printed(capsys: pytest.CaptureFixture[str], distinct: str) -> None:
    main(
        ["--samples=44", "--per_shard=4", "--size=16", "--workers=1", "--batches=1", f"--distinct={distinct}"]
    )
    printed = capsys.readouterr().out
    assert "44 frames, a manifest of 0.0 MB" in printed
    assert re.search(r"opening: \d+\.\d\d s \(\d+\.\d\d s\), \d+ MB", printed)
    assert re.search(r"each of 1 workers: \d+ MB of its own at first, \d+ MB after 1 batches", printed)
    touched = re.search(r"(\d+) of 11 tars were indexed", printed)
    assert touched is not None
    assert 2 <= int(touched[1]) <= 11


def test_settings_that_make_no_data_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1 of --samples"):
        main(["--samples=0"])
