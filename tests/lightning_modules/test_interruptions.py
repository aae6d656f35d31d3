"""Signals and faults end all processes of a run together: checkpoint, exit code, and one line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import DistNetworkError

from core.signals import EndAtOnce
from lightning_modules.interruptions import PeerEndedError, StopTogether, peer_faults
from lightning_modules.networks.portrait import CONTROL, REFERENCE, save_portrait_model
from tests.lightning_modules.processes import CHECKPOINTS, losses, settings, start
from tests.lightning_modules.recording import Terminate
from tests.networks.toy import toy_model
from tests.soak.process import end_group, run_command

SECONDS = 300
DDP = {"trainer__devices": 2, "trainer__strategy": "ddp"}


def callback(name: str, **options: Any) -> str:
    """A callback of `recording` and checkpoints, as a setting."""
    given = ", ".join(f"{key}: {value}" for key, value in options.items())
    own = f"{{class_path: tests.lightning_modules.recording.{name}, init_args: {{{given}}}}}"
    saved = CHECKPOINTS.replace("save_last: true", "save_last: true, save_on_exception: true")
    return f"[{own}, {saved}]"


def ended(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """The exit code of a process and the lines that it and its children have printed; all have ended."""
    try:
        said = process.communicate(timeout=SECONDS)[1]
    finally:
        left = end_group(process.pid)
    assert left == 0, said
    assert "Traceback" not in said, said
    assert "closed by peer" not in said, said
    return process.returncode, said.splitlines()


@pytest.fixture
def two_ranks(tmp_path: Path, capture: Path, backbone: Path) -> Callable[..., tuple[int, list[str]]]:
    """A function that trains on two ranks with a callback; see `callback` and `ended`."""

    def run(own: str, mode: str = "disabled", **options: Any) -> tuple[int, list[str]]:
        given = DDP | {"model__init_args__backbone": backbone, "trainer__callbacks": own} | options
        return ended(start(settings(tmp_path, capture, **given), WANDB_MODE=mode))

    return run


def last_step(root: Path) -> int:
    """The step of the run's last checkpoint."""
    (last,) = root.glob("run/version_0/checkpoints/last.ckpt")
    return torch.load(last, weights_only=True)["global_step"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_one_rank_stops_both_with_a_checkpoint(two_ranks, tmp_path, rank):
    code, lines = two_ranks(callback("Terminate", at=2, rank=rank))
    assert code == 128 + signal.SIGTERM
    assert len([line for line in lines if line.startswith("stopped by SIGTERM; resume with")]) == 1
    assert last_step(tmp_path) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_to_the_process_group_saves_a_checkpoint(two_ranks, tmp_path, number):
    """Loader workers and W&B's process included, as job managers and terminals send it."""
    sent = callback("Terminate", at=2, number=int(number), group="true")
    code, lines = two_ranks(sent, mode="offline", data__init_args__num_workers=1)
    assert code == 128 + number
    assert any(line.startswith(f"stopped by {number.name}; resume with") for line in lines), lines
    assert last_step(tmp_path) == 3


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("hook", ["setup", "on_train_start"])
def test_signal_before_training_ends_both_ranks_with_one_line(two_ranks, hook, rank):
    """In `on_train_start` Lightning's own handler is installed, which communicates with the other rank."""
    code, lines = two_ranks(callback("SignalIn", hook=hook, rank=rank))
    assert code == 128 + signal.SIGTERM
    assert len([line for line in lines if line.startswith("stopped")]) == 1, lines


@pytest.mark.slow
def test_ranks_end_when_their_launcher_is_killed(two_ranks):
    assert two_ranks(callback("KilledLauncher", at=2))[0] == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_error_of_one_rank_ends_both_with_one_line(two_ranks, rank):
    code, lines = two_ranks(callback("Fault", at=2, rank=rank))
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


def test_training_takes_signals_over_from_the_handlers_of_loading(tmp_path):
    """Those end the process; a forked one, for this test."""

    def train() -> None:
        stop = StopTogether()
        with EndAtOnce():
            stop._listen()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # for the thread of `EndAtOnce`
        sys.exit(stop.signal)

    assert run_command(train, tmp_path, tmp_path / "log").code == signal.SIGTERM


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
