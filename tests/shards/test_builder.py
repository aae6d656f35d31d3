import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from core.destination import Destination
from core.engine import LocalEngine
from core.errors import IncompleteError, InputError, one_line
from core.workers import ONLY_WORKER, Worker
from shards import build as command
from shards.build_plan import BuildOptions, plan_build
from shards.builder import build, run_build
from shards.manifest import Manifest
from shards.schema import Sample
from shards.skips import Skip
from tests.conftest import Uploads
from tests.engines import REASON, GivesUp
from tests.shards.fake_source import FakeSource, make_sample

FAKE = {"fake": "tests.shards.fake_source.FakeSource"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shard_bytes_do_not_depend_on_processes(tmp_path: Path) -> None:
    for processes in (0, 1, 2):
        build(FakeSource(), tmp_path / str(processes), processes, max_shard_mb=0.095)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


class NumberedSource(FakeSource):
    """Writes each worker's number into `folder`; every worker waits for the others."""

    def __init__(self, folder: Path, workers: int) -> None:
        super().__init__()
        self.folder, self.workers = folder, workers

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:
        (self.folder / f"{worker.number} of {worker.count}").touch()
        for _ in range(3000):
            if len(list(self.folder.iterdir())) == self.workers:
                break
            time.sleep(0.01)
        return super().capture(unit, worker)


def test_workers_are_numbered_and_share_gpus_and_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "who").mkdir()
    build(NumberedSource(tmp_path / "who", 2), tmp_path / "out", 2)
    assert {path.name for path in (tmp_path / "who").iterdir()} == {"0 of 2", "1 of 2"}
    assert [Worker(number, 4).gpu(2) for number in range(4)] == [0, 1, 0, 1]
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert [Worker(0, count).threads() for count in (1, 3, 40)] == [16, 5, 1]


def test_manifest_describes_the_shards(tmp_path: Path) -> None:
    built = build(FakeSource(), tmp_path / "out", 0, max_shard_mb=0.095)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest == built
    assert manifest.image_size == 16
    assert manifest.views == (12, 12)
    assert {split: manifest.samples(split) for split in ("train", "val", "test")} == dict.fromkeys(
        ("train", "val", "test"), 6
    )
    assert manifest.identities["val"] == ["val000", "val001", "val002"]
    assert all(0 < shard.bytes <= 110_000 for shard in manifest.shards)
    assert len(manifest.of_split("train")) == 3


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    import webdataset

    build(FakeSource(), tmp_path / "out", 0)
    urls = [str(tmp_path / "out" / "train-000000.tar")]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len({sample["__key__"] for sample in samples}) == 6
    assert {"meta.json", "cameras.npy", "view_11.jpg", "condition_11.jpg"} <= set(samples[0])
    with tarfile.open(urls[0]) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar} == {(0, 0, 0, "")}


def test_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        build(FakeSource(), tmp_path / "out", 0)


@pytest.mark.parametrize("processes", [0, 2])
def test_build_resumes_to_equal_shards(tmp_path: Path, processes: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="fell over"):
        build(FakeSource(fail_at=6), out, processes)
    assert not out.exists()
    captured = list((tmp_path / "out.partial" / "units").glob("*.tar"))
    assert captured
    stamps = {path: path.stat().st_mtime_ns for path in captured}
    with pytest.raises(InputError, match="fell over"):
        build(FakeSource(fail_at=6), out, 0)
    assert {path: path.stat().st_mtime_ns for path in captured} == stamps
    build(FakeSource(), out, processes)
    build(FakeSource(), tmp_path / "straight", 0)
    assert contents(out) == contents(tmp_path / "straight")
    assert not (tmp_path / "out.partial").exists()


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fell over"):
        build(FakeSource(fail_at=3), tmp_path / "out", 0)
    with pytest.raises(InputError, match="other settings"):
        build(FakeSource(identities=4), tmp_path / "out", 0)


class Changed(FakeSource):
    """A source whose samples have changed values."""

    def __init__(self, **change: object) -> None:
        super().__init__()
        self.change = change

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:  # noqa: ARG002
        """One frame, changed."""
        return [make_sample(**{"identity": f"{unit[0]}{unit[1]}", "split": unit[0], **self.change})]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Changed(identity="same"), "captured twice|in both"),
        (Changed(identity="same", split="train"), "captured twice"),
        (FakeSource(identities=0), "nothing to capture"),
        (FakeSource(instants=0), "no frame was captured"),
    ],
)
def test_invalid_captures_are_input_errors(tmp_path: Path, source: FakeSource, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(source, tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


class InAllSplits(FakeSource):
    """A source with the same identity in every split."""

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:  # noqa: ARG002
        """One frame."""
        return [make_sample("same", f"{unit[0]}{unit[1]}", unit[0])]


def test_identity_in_several_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="identity same is in both"):
        build(InAllSplits(), tmp_path / "out", 0)


def test_build_command_prints_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    command.main(["fake", "--identities", "2", "--out", out, "--processes", "0"], FAKE)
    assert "train: 4 frames of 2 identities, 1 shards" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["identities"] == 2
    with pytest.raises(InputError, match="exists already"):
        command.main(["fake", "--identities", "2", "--out", out], FAKE)


def test_workers_end_when_the_build_is_killed(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from shards.builder import build; "
        "from tests.shards.fake_source import StuckSource; "
        f"here = Path({str(tmp_path)!r}); build(StuckSource(here), here / 'out', 1)"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        wait_until(lambda: any(path.name.isdigit() for path in tmp_path.iterdir()))
        parent.kill()
    worker = next(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    wait_until(lambda: not runs(worker))


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_yaml_file_gives_the_options(tmp_path: Path) -> None:
    (tmp_path / "fake.yaml").write_text(f"identities: 2\nviews: 5\nprocesses: 0\nout: {tmp_path / 'built'}\n")
    command.main(["fake", "--config", str(tmp_path / "fake.yaml"), "--instants", "1"], FAKE)
    manifest = Manifest.load(tmp_path / "built")
    assert (manifest.views, manifest.samples("train")) == ((5, 5), 2)
    (tmp_path / "fake.yaml").write_text("people: 2\n")
    with pytest.raises(SystemExit):
        command.main(["fake", "--config", str(tmp_path / "fake.yaml"), "--out", str(tmp_path / "more")], FAKE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": -1}, "--processes -1: give 0 or more"),
        ({"max_shard_mb": 0}, "--max_shard_mb 0: give more than 0"),
        ({"max_skipped_share": 1.5}, "--max_skipped_share 1.5: give a share"),
        ({"out": "{tmp}/file/out"}, "file is not a writable folder"),
    ],
)
def test_invalid_options_are_input_errors(tmp_path: Path, options: dict, message: str) -> None:
    (tmp_path / "file").touch()
    values = {"out": "{tmp}/out", **options}
    with pytest.raises(InputError, match=message):
        BuildOptions(**{k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in values.items()})


class ManyProcesses(FakeSource):
    """A source that asks for three processes."""

    @property
    def processes(self) -> int | None:
        """Three."""
        return 3


def test_plan_fills_in_defaults(tmp_path: Path) -> None:
    options = BuildOptions(str(tmp_path / "out"))
    plan = plan_build(ManyProcesses(), options)
    assert (plan.engine.processes, plan.max_skipped_share, sum(plan.frames)) == (3, 0.1, 18)
    assert plan_build(FakeSource(), options).engine.processes == os.cpu_count()
    assert plan_build(ManyProcesses(), replace(options, processes=0)).engine.processes == 0


class Photos(FakeSource):
    """A source of photos, every second of which is unreadable."""

    inputs = "photos"

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample | Skip]:
        """The frames of a person, or the reason why there are none."""
        if unit[1] % 2:
            return [Skip(f"{unit[0]}{unit[1]}.jpg", "no photo", self.frames(unit))]
        return super().capture(unit, worker)


def test_build_skips_and_names_failed_photos(tmp_path: Path) -> None:
    sources = {"photos": "tests.shards.test_builder.Photos"}
    with pytest.raises(IncompleteError, match=r"3 of 9 photos were left out.*train1\.jpg: no photo; val1"):
        command.main(["photos", "--out", str(tmp_path / "out"), "--processes", "0"], sources)
    assert Manifest.load(tmp_path / "out").samples("train") == 4
    with pytest.raises(InputError, match=r"more than --max_skipped_share 0\.1"):
        build(Photos(), tmp_path / "strict", 0, max_skipped_share=0.1)


def test_units_given_up_are_skipped_and_retried_by_the_next_build(tmp_path: Path) -> None:
    options = BuildOptions(str(tmp_path / "out"), 0)
    plan = replace(plan_build(FakeSource(), options), engine=GivesUp([2]))
    with pytest.raises(InputError, match=f"2 of 18 frames were skipped, more than .*; most often: {REASON}"):
        run_build(plan)
    run_build(replace(plan, max_skipped_share=0.2, engine=GivesUp([0])))  # it is the only one left
    (skip,) = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert skip == {"what": "unit 2, ('train', 2)", "reason": REASON, "frames": 2}
    assert Manifest.load(tmp_path / "out").samples("train") == 4
    again = replace(plan, destination=Destination(tmp_path / "again"))
    with pytest.raises(InputError, match="were skipped"):
        run_build(again)
    run_build(replace(again, engine=LocalEngine(0)))
    build(FakeSource(), tmp_path / "straight", 0)
    assert contents(tmp_path / "again") == contents(tmp_path / "straight")


def test_processes_option_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.engine.find_spec", lambda _: "installed")
    with pytest.raises(InputError, match="--processes is for this machine: on a cluster, give --workers"):
        BuildOptions(str(tmp_path / "out"), 2, engine="ray")


class FullDisk(FakeSource):
    """A source whose capture raises ENOSPC."""

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:  # noqa: ARG002
        """Nothing."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class NoMemory(FakeSource):
    """A source whose capture raises MemoryError."""

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:  # noqa: ARG002
        """Nothing."""
        raise MemoryError


class Killed(FakeSource):
    """A source whose worker process is killed."""

    def capture(self, unit: tuple[str, int], worker: Worker = ONLY_WORKER) -> list[Sample]:  # noqa: ARG002
        """Nothing."""
        os.kill(os.getpid(), signal.SIGKILL)
        return []


def test_full_disk_memory_errors_and_dead_workers_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for processes in (0, 1):
        with pytest.raises(SystemExit), one_line():
            build(FullDisk(), tmp_path / "full", processes)
        assert "error: No space left on device: make room" in capsys.readouterr().err
        with pytest.raises(InputError, match=r"out of memory: .*fewer --processes"):
            build(NoMemory(), tmp_path / "memory", processes)
    with pytest.raises(InputError, match=r"a capture process died.*fewer --processes"):
        build(Killed(), tmp_path / "killed", 1)


def test_help_imports_no_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"], {"fake": "not.a.Module", "other": "not.a.Module"})
    assert "fake" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        command.main(["nothing"], {"fake": "not.a.Module"})
    assert "nothing" in capsys.readouterr().err


def test_build_imports_no_torch() -> None:
    script = "import sys, shards.build, tests.shards.fake_source; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_finished_folder_is_moved_to_url(tmp_path: Path) -> None:
    url, staging = f"file://{tmp_path}/store/fake", str(tmp_path / "work")
    arguments = ["fake", "--identities", "3", "--processes", "0", "--out", url, "--staging", staging]
    command.main(arguments, FAKE)
    build(FakeSource(), tmp_path / "straight", 0)
    assert contents(tmp_path / "store/fake") == contents(tmp_path / "straight")
    assert not any(path.is_dir() for path in (tmp_path / "work").iterdir())
    with pytest.raises(InputError, match="fake exists already: choose another --out"):
        command.main(arguments, FAKE)


def test_interrupted_upload_is_resumed_manifest_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: fsspec.AbstractFileSystem, uploads: Uploads
) -> None:
    arguments = ["fake", "--processes", "0", "--out", "memory://bucket/fake", "--staging", str(tmp_path)]
    uploads.room = 2
    with pytest.raises(InputError, match="memory://bucket/fake: cannot be written"):
        command.main(arguments, FAKE)
    assert not store.exists("/bucket/fake/manifest.json")
    with pytest.raises(InputError, match="fake is of other settings"):
        command.main([*arguments, "--identities", "2"], FAKE)
    captured = len(list((tmp_path / "fake").glob("*.tar")))
    monkeypatch.setattr(FakeSource, "capture", lambda *_: pytest.fail("captured again"))
    uploads.paths.clear()
    uploads.room = 1000
    command.main(arguments, FAKE)
    assert len(uploads.paths) == captured + 1 - 2
    assert uploads.paths[-1] == "/bucket/fake/manifest.json"
    assert not (tmp_path / "fake").exists()


def test_output_url_is_checked_before_capture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere://bucket/fake: cannot be read"):
        BuildOptions("nowhere://bucket/fake", staging=str(tmp_path))
