import itertools
import logging
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import InputError
from datamodules import PortraitViewsDataModule, SourceConfig
from datamodules.stream import TrainBatches
from shards.schema import decode_image
from tests.shards.fake_source import make_sample

Make = Callable[..., PortraitViewsDataModule]


def first(loader: Iterable[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return list(itertools.islice(loader, count))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def train(data: PortraitViewsDataModule) -> Any:
    data.setup("fit")
    return data.train_dataloader()


def test_batch_contents(make: Make) -> None:
    (batch,) = first(train(make(references=2, targets=5)), 1)
    shapes = {name: tuple(value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    assert shapes == {
        "reference": (2, 2, 3, 16, 16),
        "target": (2, 5, 3, 16, 16),
        "condition": (2, 5, 3, 16, 16),
        "reference_camera": (2, 2, 25),
        "camera": (2, 5, 25),
        "position": (2,),
        "valid": (2,),
    }
    assert {batch[name].dtype for name in ("reference", "target", "condition", "camera")} == {torch.float32}
    assert batch["position"].tolist() == [0, 1]
    assert batch["valid"].all()
    source, identity, _, instant = batch["key"][0].split("-")
    sample = make_sample(identity, instant, "train", source=source)
    for name, images in (("target", sample.views), ("condition", sample.conditions)):
        for image, camera in zip(batch[name][0], batch["camera"][0], strict=True):
            view = [torch.equal(camera, torch.from_numpy(c)) for c in sample.cameras].index(True)
            expected = torch.from_numpy(images[view]).permute(2, 0, 1) / 127.5 - 1
            torch.testing.assert_close(image, expected, atol=3 / 127.5, rtol=0)
    cameras = torch.cat([batch["reference_camera"][0], batch["camera"][0]])
    assert len(cameras.unique(dim=0)) == 7


def test_only_drawn_views_are_decoded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def counting(data: bytes, size: int) -> Any:
        decoded.append(len(data))
        return decode_image(data, size)

    monkeypatch.setattr("datamodules.reading.decode_image", counting)
    (batch,) = first(train(make(targets=3, conditions=False, batch_size=1)), 1)
    assert "condition" not in batch
    assert len(decoded) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_stream_does_not_depend_on_workers(make: Make, workers: int) -> None:
    alone, many = (first(train(make(num_workers=n)), 9) for n in (0, workers))
    assert all(map(same, alone, many))


def test_ranks_divide_one_stream(make: Make) -> None:
    data = make(batch_size=6)
    alone = [
        position
        for batch in first(train(data), 4)
        for position in zip(batch["key"], batch["camera"], strict=True)
    ]
    stream = data._stream()
    parts = [TrainBatches(stream, 2, rank, 3) for rank in range(3)]
    shared = [part.batch(number) for number in range(4) for part in parts]
    together = [p for batch in shared for p in zip(batch["key"], batch["camera"], strict=True)]
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(alone, together, strict=True))


def test_sources_are_mixed_by_weight_without_repeats_in_an_epoch(make: Make, built: Path) -> None:
    data = make(
        sources={n: SourceConfig(str(built / n), w) for n, w in (("small", 1), ("large", 3))}, targets=1
    )
    keys = [key for batch in first(train(data), 500) for key in batch["key"]]
    assert Counter(key.split("-")[0] for key in keys) == {"small": 250, "large": 750}
    for source, frames in (("small", 14), ("large", 40)):
        own = [key for key in keys if key.startswith(source)]
        for start in range(0, len(own) - frames, frames):
            assert len(set(own[start : start + frames])) == frames
        assert own[:frames] != own[frames : 2 * frames]


def test_stream_depends_on_the_seed(make: Make) -> None:
    one, same_seed, other = (first(train(make(seed=seed)), 5) for seed in (0, 0, 1))
    assert all(map(same, one, same_seed))
    assert not any(map(same, one, other))


def test_iterating_leaves_torchs_random_state(make: Make) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first(train(make(num_workers=1)), 2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_does_not_depend_on_the_number_of_ranks(make: Make, world_size: int) -> None:
    data = make(val_frames=13, batch_size=2)
    data.setup("fit")
    everything = {
        place: (key, camera)
        for batch in data.val_dataloader()
        for place, key, camera, valid in zip(
            batch["position"].tolist(), batch["key"], batch["camera"], batch["valid"], strict=True
        )
        if valid
    }
    assert sorted(everything) == list(range(13))
    assert len({key for key, _ in everything.values()}) == 13
    assert {key.split("-")[1][:3] for key, _ in everything.values()} == {"val"}
    seen: list[int] = []
    lengths = set()
    for rank in range(world_size):
        data._ranks = lambda rank=rank: (rank, world_size)  # type: ignore[method-assign]
        loader = data.val_dataloader()
        lengths.add(len(loader))
        for batch in loader:
            for i in torch.nonzero(batch["valid"]).flatten().tolist():
                place = int(batch["position"][i])
                seen.append(place)
                assert everything[place][0] == batch["key"][i]
                assert torch.equal(everything[place][1], batch["camera"][i])
    assert sorted(seen) == list(range(13))
    assert len(lengths) == 1


def test_validation_does_not_depend_on_the_seed(make: Make) -> None:
    batches = []
    for seed in (0, 1):
        data = make(seed=seed)
        data.setup("validate")
        batches.append(list(data.val_dataloader()))
    assert all(map(same, *batches))
    assert sum(int(batch["valid"].sum()) for batch in batches[0]) == 54


def test_samples_are_deterministic_and_test_split_loads(make: Make) -> None:
    data = make()
    data.setup("fit")
    assert len(set(data.samples(5)["key"])) == 5
    assert same(data.samples(5), data.samples(5))
    data.setup("test")
    assert all("-test" in key for batch in data.test_dataloader() for key in batch["key"])


def damage(source: Path, out: Path, members: Iterable[str]) -> Path:
    """Copy a built folder without its manifest, and overwrite `members` with zeros."""
    shutil.copytree(source, out)
    (out / "manifest.json").unlink()
    spans = {}
    for shard in out.glob("*.tar"):
        with tarfile.open(shard) as tar:
            spans |= {m.name: (shard, m.offset_data, m.size) for m in tar}
    for name in members:
        shard, offset, size = spans[name]
        with shard.open("r+b") as file:
            file.seek(offset)
            file.write(bytes(size))
    return out


def test_damaged_samples_are_replaced_counted_and_logged(
    make: Make, built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = "small-train002-still-1"
    folder = damage(built / "small", tmp_path / "bad", [f"{bad}.cameras.npy"])
    whole, broken = (
        make(sources={"small": SourceConfig(str(path))}, max_skipped_share=0.2, batch_size=1)
        for path in (built / "small", folder)
    )
    expected = [batch["key"][0] for batch in first(train(whole), 15)]
    with caplog.at_level(logging.WARNING):
        batches = first(train(broken), 14)
    place = expected[:14].index(bad)
    for i, batch in enumerate(batches):
        assert batch["key"] == [expected[i + (i == place)]]
        assert len(batch["skipped"]) == (i == place)
    (record,) = [r for r in caplog.records if r.name == "datamodules.loader"]
    assert bad in record.getMessage()
    assert "cameras.npy" in record.getMessage()


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_damaged_samples_are_an_input_error(
    make: Make, built: Path, tmp_path: Path, workers: int
) -> None:
    people = [f"small-train{i:03d}-still-{instant}" for i in range(3) for instant in (0, 1)]
    members = [f"{key}.condition_{view:02d}.jpg" for key in people for view in range(12)]
    folder = damage(built / "small", tmp_path / "bad", members)
    data = make(sources={"small": SourceConfig(str(folder))}, num_workers=workers)
    with pytest.raises(InputError, match="max_skipped_share") as error:
        first(train(data), 100)
    assert "\n" not in str(error.value)


def test_damaged_validation_frames_are_not_counted(make: Make, built: Path, tmp_path: Path) -> None:
    folder = damage(built / "small", tmp_path / "bad", ["small-val000-still-0.cameras.npy"])
    data = make(sources={"small": SourceConfig(str(folder))}, max_skipped_share=0.5)
    data.setup("validate")
    batches = list(data.val_dataloader())
    valid = [key for b in batches for key, v in zip(b["key"], b["valid"], strict=True) if v]
    assert len(valid) == len(set(valid)) == 13
