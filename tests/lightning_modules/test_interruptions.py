"""Signals and faults end all processes of a run together: checkpoint, exit code, and one line."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import DistNetworkError

from lightning_modules.interruptions import PeerEndedError, StopTogether, peer_faults
from lightning_modules.networks.portrait import CONTROL, REFERENCE, save_portrait_model
from tests.lightning_modules.processes import CHECKPOINTS, losses, settings, start
from tests.lightning_modules.recording import Terminate
from tests.networks.toy import toy_model

SECONDS = 300
DDP = {"trainer__devices": 2, "trainer__strategy": "ddp"}


def callback(name: str, **options: Any) -> str:
    """A callback of `recording` and checkpoints, as a setting."""
    given = ", ".join(f"{key}: {value}" for key, value in options.items())
    own = f"{{class_path: tests.lightning_modules.recording.{name}, init_args: {{{given}}}}}"
    saved = CHECKPOINTS.replace("save_last: true", "save_last: true, save_on_exception: true")
    return f"[{own}, {saved}]"


def ended(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """The exit code of a process and the lines that it and its children have printed."""
    try:
        said = process.communicate(timeout=SECONDS)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in said, said
    assert "closed by peer" not in said, said
    return process.returncode, said.splitlines()


def last_step(root: Path) -> int:
    """The step of the run's last checkpoint."""
    (last,) = root.glob("run/version_0/checkpoints/last.ckpt")
    return torch.load(last, weights_only=True)["global_step"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_one_rank_stops_both_with_a_checkpoint(tmp_path, capture, backbone, rank):
    sent = callback("Terminate", at=2, rank=rank)
    options = DDP | {"model__init_args__backbone": backbone, "trainer__callbacks": sent}
    code, lines = ended(start(settings(tmp_path, capture, **options)))
    assert code == 128 + signal.SIGTERM
    assert len([line for line in lines if line.startswith("stopped by SIGTERM; resume with")]) == 1
    assert last_step(tmp_path) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_to_the_process_group_saves_a_checkpoint(tmp_path, capture, backbone, number):
    """Loader workers and W&B's process included, as job managers and terminals send it."""
    sent = callback("Terminate", at=2, number=int(number), group="true")
    options = DDP | {"model__init_args__backbone": backbone, "trainer__callbacks": sent}
    run = settings(tmp_path, capture, data__init_args__num_workers=1, **options)
    code, lines = ended(start(run, WANDB_MODE="offline"))
    assert code == 128 + number
    assert any(line.startswith(f"stopped by {number.name}; resume with") for line in lines), lines
    assert last_step(tmp_path) == 3


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_error_of_one_rank_ends_both_with_one_line(tmp_path, capture, backbone, rank):
    fault = callback("Fault", at=2, rank=rank)
    options = DDP | {"model__init_args__backbone": backbone, "trainer__callbacks": fault}
    code, lines = ended(start(settings(tmp_path, capture, **options)))
    assert code != 0
    assert [line for line in lines if line.startswith("error: ")] == [f"error: a fault of rank {rank}"]


@pytest.mark.slow
def test_cross_view_with_unconditional_middle_trains_on_two_ranks(tmp_path, capture):
    save_portrait_model(toy_model(), str(tmp_path / "model"))
    options = DDP | {
        "model__init_args__backbone": tmp_path / "model",
        "model__init_args__appearance": tmp_path / "model" / REFERENCE,
        "model__init_args__control": tmp_path / "model" / CONTROL,
        "model__init_args__middle": "unconditional",
        "trainer__max_steps": 4,
        "trainer__val_check_interval": 2,
    }
    assert ended(start(settings(tmp_path, capture, "stage3", **options)))[0] == 0
    found = losses(tmp_path)
    assert len(found["train/loss"]) == 4
    assert len(found["val/loss"]) == 2


@pytest.mark.slow
def test_interruption_while_loading_prints_one_line(tmp_path, capture, backbone):
    process = start(settings(tmp_path, capture, model__init_args__backbone=backbone))
    deadline = time.monotonic() + SECONDS
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, ["interrupted"])


def test_second_sigint_raises_keyboard_interrupt():
    stop = StopTogether()
    for number in (signal.SIGTERM, signal.SIGINT):
        stop._note(number, None)
    assert stop.signal == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        stop._note(signal.SIGINT, None)


def test_ignored_signals_stay_ignored(make_trainer, make_stage, make_data):
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = make_trainer(max_steps=2, callbacks=[Terminate(0, signal.SIGHUP), StopTogether()])
        trainer.fit(make_stage(), make_data())
        assert trainer.global_step == 2
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])


def test_communication_errors_are_peer_errors():
    for error in (RuntimeError("[/third_party/gloo/tcp/pair.cc:1] closed by peer"), DistNetworkError("lost")):
        with pytest.raises(PeerEndedError), peer_faults():
            raise error
    with pytest.raises(RuntimeError, match="shape"), peer_faults():
        raise RuntimeError("shape")
