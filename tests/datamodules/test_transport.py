"""Small shared memory, killed workers and unresponsive workers."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from core.errors import InputError
from core.signals import EndAtOnce
from datamodules import PortraitViewsDataModule, SourceConfig
from datamodules import loader as loading
from datamodules.loader import SkipCounter, StreamLoader
from datamodules.reading import ViewReader
from datamodules.transport import to_arrays, to_tensors, worker_faults
from tests.soak.process import run_command

Make = Callable[..., PortraitViewsDataModule]


def test_batches_through_pipes_are_equal(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def first(data: PortraitViewsDataModule) -> list[dict[str, Any]]:
        data.setup("fit")
        return list(islice(data.train_dataloader(), 3))

    shared = first(make(num_workers=2))
    assert "pipes" not in caplog.text
    monkeypatch.setattr(loading, "has_room", lambda _: False)
    piped = first(make(num_workers=2))
    assert "batches are sent through pipes" in caplog.text
    assert "--shm-size" in caplog.text
    for batch, twin in zip(shared, piped, strict=True):
        assert batch.keys() == twin.keys()
        for name, value in batch.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, twin[name])
                assert value.dtype == twin[name].dtype
            else:
                assert value == twin[name]


def test_shared_memory_estimate_counts_prefetched_images(make: Make) -> None:
    reader = ViewReader(512, references=1, targets=8, conditions=True)
    item = np.zeros((17, 3, 512, 512), np.float32)
    assert reader.bytes == item.nbytes
    data = make(num_workers=3, batch_size=2, image_size=16, targets=3, conditions=False)
    assert data._shared_bytes() == 2 * 7 * 2 * (4 * 3 * 16 * 16 * 4)


def test_to_arrays_and_to_tensors_are_inverse() -> None:
    batch = {"a": torch.arange(3.0), "b": torch.tensor([True]), "key": ["x"]}
    arrays = to_arrays(batch)
    assert isinstance(arrays["a"], np.ndarray)
    back = to_tensors(arrays)
    assert all(torch.equal(back[name], batch[name]) for name in ("a", "b"))
    assert back["key"] == ["x"]
    error = InputError("no")
    assert to_tensors(to_arrays(error)) is error


class KilledWorker(Dataset[Any]):
    """A dataset whose worker is killed."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class UnresponsiveWorker(KilledWorker):
    """A dataset whose worker never answers."""

    def __getitem__(self, number: int) -> Any:
        signal.pause()


class SignalledWorker(KilledWorker):
    """A data set whose worker gets the signals that job managers and terminals send to all processes."""

    def __getitem__(self, number: int) -> Any:
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(os.getpid(), signum)
        return {"key": [str(number)], "skipped": []}


def test_worker_outlives_the_signals_that_end_a_run() -> None:
    batches = list(StreamLoader(SignalledWorker(), SkipCounter(0.0), num_workers=1))  # type: ignore[arg-type]
    assert [batch["key"] for batch in batches] == [["0"]]


def test_signals_to_a_worker_do_not_end_the_run(tmp_path: Path) -> None:
    """A worker that was forked under `EndAtOnce` inherits its wakeup descriptor."""

    def load() -> None:
        with EndAtOnce():
            test_worker_outlives_the_signals_that_end_a_run()
            time.sleep(0.2)  # for the thread of `EndAtOnce`

    log = tmp_path / "log"
    assert run_command(load, tmp_path, log).code == 0, log.read_text()


def test_killed_worker_is_an_input_error() -> None:
    message = r"^DataLoader worker .*(killed|exited unexpectedly).*lower num_workers"
    with pytest.raises(InputError, match=message):
        list(StreamLoader(KilledWorker(), SkipCounter(0.0), num_workers=1))  # type: ignore[arg-type]


def test_unresponsive_worker_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "WAIT_SECONDS", 0.5)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # also the limit of joins
    with pytest.raises(InputError, match=r"timed out after 0\.5 seconds.*--ckpt_path"):
        list(StreamLoader(UnresponsiveWorker(), SkipCounter(0.0), num_workers=1))  # type: ignore[arg-type]


def test_other_errors_propagate() -> None:
    with pytest.raises(RuntimeError, match="a bug"), worker_faults():
        raise RuntimeError("a bug")


# the new file system is this process's alone
SMALL = "mount --make-rprivate / && mount -t tmpfs -o size=1m tmpfs /dev/shm"
NEW_MOUNTS = 0x20000  # CLONE_NEWNS


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "sh", "-c", SMALL], capture_output=True, check=False).returncode != 0,
    reason="no file system can be mounted here",
)
def test_small_dev_shm_does_not_hang(built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def load() -> None:
        assert ctypes.CDLL(None).unshare(NEW_MOUNTS) == 0
        subprocess.run(["sh", "-c", SMALL], check=True)
        sources = {"it": SourceConfig(str(built / "small"))}
        data = PortraitViewsDataModule(sources, 16, 40, num_workers=2, cache_dir=str(tmp_path / "cache"))
        data.setup("fit")  # 2 MB a batch
        print(sum(len(batch["key"]) for batch in islice(data.train_dataloader(), 2)), "samples")
        print(caplog.text, flush=True)

    log = tmp_path / "log"
    assert run_command(load, tmp_path, log).code == 0, log.read_text()
    assert "80 samples" in log.read_text()
    assert "batches are sent through pipes" in log.read_text()
