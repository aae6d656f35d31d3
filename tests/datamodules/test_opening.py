"""What opening a data set reads, and what it keeps for the next time."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from core.errors import InputError
from datamodules import PortraitViewsDataModule, SourceConfig
from shards import index_cache
from shards.index import ShardIndex
from shards.index_cache import IndexCache
from shards.writer import SampleTar

Make = Callable[..., PortraitViewsDataModule]


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A copy of a built folder of twenty training shards."""
    return Path(shutil.copytree(built / "large", tmp_path / "copy"))


def batches(make: Make, folder: Path, count: int = 1, **change: Any) -> list[dict[str, Any]]:
    data = make(sources={"it": SourceConfig(str(folder))}, val_frames=0, **change)
    data.setup("fit")
    return list(itertools.islice(data.train_dataloader(), count))


def keys(found: list[dict[str, Any]]) -> list[str]:
    return [key for batch in found for key in batch["key"]]


def no_scan(path: Path) -> NoReturn:
    raise AssertionError(f"{path} is scanned")


def test_opening_reads_only_the_shards_of_the_first_batch(make: Make, copy: Path, built: Path) -> None:
    expected = batches(make, built / "large")
    needed = {f"{key}.meta.json" for key in keys(expected)}
    emptied = 0
    for shard in sorted(copy.glob("*.tar")):
        index = ShardIndex.scan(shard)
        if not needed & {f"{key}.meta.json" for key in index.keys}:
            size = shard.stat().st_size
            os.truncate(shard, 0)
            os.truncate(shard, size)  # a hole of the same size
            emptied += 1
    assert emptied >= 58
    (found,) = batches(make, copy)
    assert found["key"] == expected[0]["key"]
    assert torch.equal(found["target"], expected[0]["target"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_is_scanned_once_on_a_machine(
    make: Make, copy: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    expected = keys(batches(make, copy, 20))
    monkeypatch.setattr(ShardIndex, "scan", no_scan)
    assert keys(batches(make, copy, 20, num_workers=workers)) == expected


def test_stream_matches_that_of_shards_without_a_manifest(make: Make, copy: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(copy, tmp_path / "bare"))
    (bare / "manifest.json").unlink()
    assert keys(batches(make, copy, 45)) == keys(batches(make, bare, 45))


def test_a_changed_shard_is_indexed_again(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.tar", IndexCache(tmp_path / "indices")
    for state, key in (("1", "one"), ("2", "two")):
        with SampleTar(path) as tar:
            tar.add(key, {"x": b"1"})
        assert cache.open("a.tar", path, state).keys == [key]
    assert IndexCache(tmp_path / "indices").open("a.tar", tmp_path / "gone.tar", "2").keys == ["two"]
    with pytest.raises(InputError, match=r"gone\.tar: cannot be read"):
        IndexCache(tmp_path / "indices").open("a.tar", tmp_path / "gone.tar", "3")


def test_equal_indices_are_stored_as_equal_bytes(tmp_path: Path) -> None:
    path, stored = tmp_path / "a.tar", set()
    with SampleTar(path) as tar:
        tar.add("one", {"x": b"1", "y": b"22"})
    for number in range(8):
        IndexCache(tmp_path / str(number)).open("a.tar", path, "1")
        stored.update(file.read_bytes() for file in (tmp_path / str(number)).glob("*.index"))
    assert len(stored) == 1


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_damaged_index_is_computed_again(
    tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tar"
    with SampleTar(path) as tar:
        tar.add("one", {"x": b"1", "y": b"22"})
    (expected,) = [IndexCache(tmp_path).open("a.tar", path, "1") for _ in range(1)]
    (stored,) = tmp_path.glob("*.index")
    stored.write_bytes(stored.read_bytes()[:keep])
    found = IndexCache(tmp_path).open("a.tar", path, "1")
    assert found.members(0) == expected.members(0)
    assert "is damaged" in caplog.text


def test_few_indices_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "MAX_OPEN", 2)
    path, cache = tmp_path / "a.tar", IndexCache(None)
    with SampleTar(path) as tar:
        tar.add("one", {"x": b"1"})
    for url in ("a", "b", "c"):
        cache.open(url, path, "1")
    assert [cache.recent(url) is not None for url in ("a", "b", "c")] == [False, True, True]


def test_unwritable_index_cache_is_not_used(
    make: Make, copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    expected = keys(batches(make, copy, 4))
    assert keys(batches(make, copy, 4, cache_dir=str(tmp_path / "file"))) == expected
    assert caplog.text.count("cannot be written") == 1
