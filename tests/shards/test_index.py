import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from core.errors import InputError
from shards import reader as reading
from shards.index import ShardIndex
from shards.reader import ShardReader
from shards.schema import SampleError, encode
from shards.writer import SampleTar
from tests.shards.fake_source import make_sample


def write(path: Path, entries: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_shard_round_trip(tmp_path: Path) -> None:
    samples = [make_sample(instant=str(i), views=9 + i, masks=i == 1) for i in range(3)]
    with SampleTar(tmp_path / "a.tar") as tar:
        for sample in samples:
            tar.add(sample.key, encode(sample))
    index = ShardIndex.scan(tmp_path / "a.tar")
    assert index.keys == [sample.key for sample in samples]
    reader = ShardReader()
    for i, sample in enumerate(samples):
        assert reader.read(tmp_path / "a.tar", index.members(i)) == encode(sample)


def test_keys_follow_webdataset(tmp_path: Path) -> None:
    long = "very-" * 30 + "long"
    entries = [
        ("dir.d/a.x.jpg", b"1"),
        ("dir.d/a.Y", b"22"),
        ("nodot", b"3"),
        ("b.x", b"4"),
        (f"{long}.x", b"5"),
    ]
    index = ShardIndex.scan(write(tmp_path / "a.tar", entries))
    assert index.keys == ["dir.d/a", "b", long]
    assert [list(index.members(i)) for i in range(3)] == [["x.jpg", "y"], ["x"], ["x"]]
    members = index.members(0)
    assert ShardReader().read(tmp_path / "a.tar", members) == {"x.jpg": b"1", "y": b"22"}


def test_links_devices_and_folders_are_ignored(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"a.{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("b.x"))
    assert ShardIndex.scan(tmp_path / "a.tar").keys == ["b"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a.x", "b.x", "a.y"], "twice or in pieces"), (["a.x", "a.X"], "a member twice")],
)
def test_ambiguous_samples_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    path = write(tmp_path / "a.tar", [(name, b"") for name in names])
    with pytest.raises(InputError, match=message):
        ShardIndex.scan(path)


def test_compressed_tars_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.x"))
    with pytest.raises(InputError, match="plain tar"):
        ShardIndex.scan(tmp_path / "a.tar")


def test_member_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tar", [("a.x", b"12345")])
    members = ShardIndex.scan(path).members(0)
    monkeypatch.setattr(reading, "MAX_MEMBER_BYTES", 4)
    with pytest.raises(SampleError, match="5 bytes"):
        ShardReader().read(path, members)
    with pytest.raises(SampleError, match="no y"):
        ShardReader().read(path, members, ["y"])


def test_open_files_are_limited_and_not_pickled(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.tar", [("a.x", bytes([i]))]) for i in range(5)]
    members = ShardIndex.scan(paths[0]).members(0)
    reader = ShardReader(max_open=2)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [reader.read(path, members)["x"] for path in paths] == [bytes([i]) for i in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert pickle.loads(pickle.dumps(reader)).read(paths[3], members) == {"x": b"\3"}
    reader.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with SampleTar(tmp_path / "a.tar") as tar:
            tar.add("a", {"x": b"1"})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not list(tmp_path.iterdir())
