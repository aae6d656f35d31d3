from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import PortraitViewsDataModule, SourceConfig
from shards.builder import build
from tests.shards.fake_source import FakeSource


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two built folders, `small` with 7 people and `large` with 20 in each split: two frames each, 12 views
    of 16×16 pixels, two frames per shard."""
    folder = tmp_path_factory.mktemp("built")
    for name, people in (("small", 7), ("large", 20)):
        build(FakeSource(people, name=name), folder / name, 0, max_shard_mb=0.095)
    return folder


@pytest.fixture
def make(built: Path, tmp_path: Path) -> Callable[..., PortraitViewsDataModule]:
    """A function that makes a data module over both folders, with changed settings."""

    def make(**change: Any) -> PortraitViewsDataModule:
        options: dict[str, Any] = {
            "sources": {name: SourceConfig(str(built / name)) for name in ("small", "large")},
            "image_size": 16,
            "batch_size": 2,
            "num_workers": 0,
            "shuffle_shards": 3,
            "cache_dir": str(tmp_path / "cache"),
        }
        return PortraitViewsDataModule(**{**options, **change})

    return make
