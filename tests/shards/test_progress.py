"""Progress within units, and the forecast of a build."""

import io
import logging
from pathlib import Path

import pytest

from shards.progress import UnitBar, reporter, shares


def bar(folder: Path, sizes: dict[int, int], done: int = 0) -> UnitBar:
    total = done + sum(sizes.values())
    return UnitBar(folder, sizes, total=total, initial=done, desc="capture toy", file=io.StringIO())


def test_shares_of_units_under_way(tmp_path: Path) -> None:
    reporter(tmp_path, 3)(0.25)
    reporter(tmp_path, 4)(0.5)
    reporter(tmp_path, 5)(0.5)
    (tmp_path / "000005.progress").write_text("")  # it is being written
    (tmp_path / "000006.tar").touch()
    assert shares(tmp_path) == {3: 0.25, 4: 0.5}
    reporter(tmp_path, 4)(1.0)
    assert shares(tmp_path) == {3: 0.25}
    reporter(tmp_path / "gone", 1)(0.5)  # a folder that cannot be written costs no more than the progress


def test_bar_moves_within_units_and_never_back(tmp_path: Path) -> None:
    reporter(tmp_path, 0)(0.9)  # of an interrupted run
    with bar(tmp_path, {0: 8, 1: 4}, done=3) as shown:
        shown.look()
        assert shown.n == 3
        reporter(tmp_path, 0)(0.5)
        reporter(tmp_path, 1)(0.25)
        shown.look()
        assert shown.n == 3 + 4 + 1
        reporter(tmp_path, 0)(1.0)
        shown.look()
        assert shown.n == 8
        shown.update(8)
        assert shown.n == 3 + 8 + 1
        reporter(tmp_path, 1)(1.0)
        shown.update(4)
        assert shown.n == shown.total == 15


def test_rest_is_forecast_once_by_the_measured_rate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("shards.progress.time.monotonic", lambda: now)
    with caplog.at_level(logging.INFO), bar(tmp_path, {0: 8, 1: 8}, done=4) as shown:
        now = 110.0
        reporter(tmp_path, 0)(0.25)
        shown.look()
        assert "left" not in caplog.text
        now = 160.0
        reporter(tmp_path, 0)(0.5)
        shown.look()
        shown.update(8)
    assert caplog.text.count("left") == 1
    assert "capture toy: about 0:05:00 left for 12 frames, by the first 4.0" in caplog.text


def test_units_that_report_nothing_are_forecast_from_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("shards.progress.time.monotonic", lambda: now)
    with caplog.at_level(logging.INFO), bar(tmp_path, {0: 2, 1: 4}) as shown:
        now = 10.0
        shown.update(2)
    assert "capture toy: about 0:00:20 left for 4 frames, by the first 2.0" in caplog.text
