"""Lookup of shipped configurations and models from any working directory."""

from pathlib import Path

import pytest

from core.shipped import find_configs, find_shipped


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_shipped_files_are_found_by_documented_names():
    assert find_shipped("configs/stage1.yaml").read_text().startswith("# Stage 1")
    assert (find_shipped("checkpoints/mini") / "unet" / "config.json").is_file()
    assert find_shipped("configs/nothing.yaml") == Path("configs/nothing.yaml")


def test_local_file_takes_precedence(tmp_path: Path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "stage1.yaml").touch()
    assert find_shipped("configs/stage1.yaml") == Path("configs/stage1.yaml")


def test_find_configs_handles_both_flag_syntaxes():
    shipped = str(find_shipped("configs/stage1.yaml"))
    given = [
        "--config",
        "configs/stage1.yaml",
        "--config=configs/stage1.yaml",
        "--out",
        "configs/stage1.yaml",
    ]
    assert find_configs(given) == ["--config", shipped, f"--config={shipped}", "--out", "configs/stage1.yaml"]
