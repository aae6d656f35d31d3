"""Invalid shards and settings are one-line input errors in `setup`."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from datamodules import PortraitViewsDataModule, SourceConfig
from shards.builder import build
from shards.schema import encode
from shards.writer import SampleTar
from tests.shards.fake_source import FakeSource, make_sample

Make = Callable[..., PortraitViewsDataModule]


def refusal(make: Make, urls: Any = None, **change: Any) -> str:
    sources = {} if urls is None else {"sources": {"it": SourceConfig(urls)}}
    with pytest.raises(InputError) as error:
        make(**sources, **change).setup("fit")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A copy of a built folder."""
    return Path(shutil.copytree(built / "small", tmp_path / "copy"))


def truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def test_missing_shards(make: Make, tmp_path: Path) -> None:
    assert "nowhere" in refusal(make, str(tmp_path / "nowhere"))
    assert "no such shards" in refusal(make, str(tmp_path / "*.tar"))
    (tmp_path / "empty").mkdir()
    assert "no such shards" in refusal(make, str(tmp_path / "empty"))
    assert "no shards are named" in refusal(make, [])
    assert "stands for more than 1000000 shards: check its numbers" in refusal(
        make, "{0..9}-{000000..99999999999}.tar"
    )
    assert "data.sources" in refusal(make, sources={})


def test_duplicate_shards(make: Make, built: Path) -> None:
    assert "named twice" in refusal(make, [str(built / "small"), str(built / "small/train-000000.tar")])


def test_wrong_image_size(make: Make) -> None:
    message = refusal(make, image_size=32)
    assert "16x16" in message
    assert "32" in message


def test_too_few_views(make: Make) -> None:
    assert "12 views" in refusal(make, targets=12)


def test_share_of_frames_with_too_few_views_is_limited(make: Make, copy: Path) -> None:
    with SampleTar(copy / "train-000099.tar") as tar:
        tar.add("odd", encode(make_sample("few", views=4)))
    assert "1 of 15 train frames" in refusal(make, str(copy / "*.tar"), max_skipped_share=0.01)
    make(sources={"it": SourceConfig(str(copy / "*.tar"))}, max_skipped_share=0.1).setup("fit")


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("keep", [0, 1000, 0.3, 0.5, 0.9])
def test_truncated_shard(make: Make, copy: Path, keep: float, manifest: bool) -> None:
    shard = copy / "train-000001.tar"
    truncate(shard, int(keep if keep > 1 else keep * shard.stat().st_size))
    if not manifest:
        (copy / "manifest.json").unlink()
    assert "train-000001.tar" in refusal(make, str(copy))


def test_overwritten_tar_header(make: Make, copy: Path) -> None:
    """With a manifest it is found when the shard is read: opening reads none."""
    with (copy / "train-000001.tar").open("r+b") as file, tarfile.open(copy / "train-000001.tar") as tar:
        file.seek(tar.getmembers()[20].offset)
        file.write(b"x" * 512)
    data = make(sources={"it": SourceConfig(str(copy))})
    data.setup("fit")
    with pytest.raises(InputError, match=r"train-000001\.tar: not a complete plain tar"):
        list(zip(range(14), data.train_dataloader(), strict=False))
    (copy / "manifest.json").unlink()
    assert "not a complete plain tar" in refusal(make, str(copy))


def test_another_number_of_samples_than_in_the_manifest(make: Make, copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    for shard in manifest["shards"]:
        shard["samples"] += shard["name"] == "train-000001.tar"
    path.write_text(json.dumps(manifest))
    data = make(sources={"it": SourceConfig(str(copy))})
    data.setup("fit")
    with pytest.raises(InputError, match=r"train-000001\.tar: 2 samples, not 3 \(its manifest\)"):
        list(zip(range(14), data.train_dataloader(), strict=False))


def test_not_a_tar(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    path.write_bytes(b"hello" * 1000)
    assert "not a complete plain tar" in refusal(make, str(path))


def test_tar_of_another_project(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(3):
            member = tarfile.TarInfo(f"{i:04d}.jpg")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"bytes"))
    message = refusal(make, str(path))
    assert "images.tar" in message
    assert "not a shard of this project" in message
    assert "meta.json" in message


def test_unknown_schema_version(make: Make, copy: Path, tmp_path: Path) -> None:
    members = encode(make_sample())
    members["meta.json"] = json.dumps({**json.loads(members["meta.json"]), "schema_version": 7}).encode()
    with SampleTar(tmp_path / "new.tar") as tar:
        tar.add("new", members)
    assert "schema version 7" in refusal(make, str(tmp_path / "new.tar"))
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 7}))
    assert "schema version 7" in refusal(make, str(copy))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "shards": 3}']
)
def test_damaged_manifest(make: Make, copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content)
    assert "manifest.json" in refusal(make, str(copy))


def test_manifest_cannot_name_files_outside_its_folder(make: Make, copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace("train-000000.tar", "../small/train-000000.tar"))
    assert "not a shard's file name" in refusal(make, str(copy))


def test_missing_splits(make: Make, built: Path, tmp_path: Path) -> None:
    build(FakeSource(splits=["train"]), tmp_path / "train", 0)
    assert "val_frames" in refusal(make, str(tmp_path / "train"))
    make(sources={"it": SourceConfig(str(tmp_path / "train"))}, val_frames=0).setup("fit")
    assert "no train shards" in refusal(make, str(built / "small/val-*.tar"))


def test_identity_in_two_splits(make: Make, tmp_path: Path) -> None:
    for split in ("train", "val"):
        with SampleTar(tmp_path / f"{split}.tar") as tar:
            tar.add(f"{split}-a", encode(make_sample("same", split=split)))
    assert "identity same is in both" in refusal(make, str(tmp_path / "*.tar"))


def test_sample_in_two_shards(make: Make, built: Path, copy: Path) -> None:
    assert "the same samples are in" in refusal(make, [str(built / "small"), str(copy)])
    (copy / "manifest.json").unlink()
    shutil.copy(copy / "train-000000.tar", copy / "train-000009.tar")
    assert "the sample small-" in refusal(make, str(copy))


def test_sample_of_another_split_in_a_shard(make: Make, tmp_path: Path, built: Path) -> None:
    with SampleTar(tmp_path / "mixed.tar") as tar:
        for split in ("train", "val"):
            tar.add(f"{split}-a", encode(make_sample(split, split=split)))
    data = make(sources={"it": SourceConfig([str(tmp_path / "mixed.tar"), str(built / "small/val-*.tar")])})
    data.setup("fit")
    with pytest.raises(InputError, match="is of the split val, not train"):
        list(zip(range(5), data.train_dataloader(), strict=False))


@pytest.mark.parametrize(
    "change", [{"batch_size": 0}, {"targets": 0}, {"references": 0}, {"num_workers": -1}, {"seed": -1}]
)
def test_invalid_settings(make: Make, change: dict[str, int]) -> None:
    assert next(iter(change)) in refusal(make, **change)


def test_source_of_zero_weight(make: Make, built: Path) -> None:
    assert "weight" in refusal(make, sources={"it": SourceConfig(str(built / "small"), 0.0)})
