"""Signals and faults in training: all processes of a run (ranks) stop together, and say why in one line."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.distributed import DistError

from core.errors import INTERRUPTED
from core.signals import ENDED_BY, POLL_SECONDS, SIGNALS, hand_over, launcher, launching

CHILD_SECONDS = 4  # in which a launched rank that had a fault exits, after its connections have closed


class StopTogether(pl.Callback):
    """On SIGTERM, SIGHUP or SIGINT to any rank, ends all ranks after the same batch, with a checkpoint.

    Before training starts, signals are handled by `core.signals.EndAtOnce`. This callback's handler only
    records the signal, and the ranks agree on it after each batch of training or validation. Lightning's own
    handler communicates with the other ranks itself, which hangs unless they are at the same place. A second
    SIGINT raises KeyboardInterrupt at once.

    Must come after callbacks whose state belongs in the checkpoint.
    """

    def __init__(self) -> None:
        self.signal = 0
        """The number of the signal that ends the run; 0 for none."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replaces Lightning's handlers, which are restored to those before it when training ends."""
        self._listen()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same, as a resumed run may begin with a validation."""
        self._listen()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Raises SIGTERMException on all ranks if one of them has received a signal."""
        self._stop(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Raises SIGTERMException on all ranks if one of them has received a signal."""
        self._stop(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Prevents a checkpoint at a fault of one rank among several: saving would wait for the others."""
        if trainer.world_size > 1 and not isinstance(exception, SIGTERMException):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint):
                    callback.save_on_exception = False

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # signals are those of the main thread
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP is under nohup
                signal.signal(number, self._note)
        hand_over()  # only now, so that every signal has a handler

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.signal == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.signal = number

    def _stop(self, trainer: pl.Trainer) -> None:
        number = self.signal
        if trainer.world_size > 1:
            noted = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(noted, reduce_op="max"))
        if number:
            self.signal = number
            raise SIGTERMException


class PeerEndedError(Exception):
    """Another rank of this run has ended."""


@contextmanager
def peer_faults() -> Iterator[None]:
    """Raise PeerEndedError if communication fails because another rank has ended."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, DistError) and "gloo" not in str(error):
            raise
        raise PeerEndedError from error


@contextmanager
def ended_together(trainer: pl.Trainer, stop: StopTogether) -> Iterator[None]:
    """End the other ranks with this one, and exit if a signal or another rank has ended this one.

    The exit code is 128 and the signal's number, or that of the rank that had a fault. Other exceptions
    propagate.
    """
    try:
        with launching(), kept_sigint():
            yield
    except SIGTERMException:
        raise SystemExit(_report_stop(trainer, stop.signal or signal.SIGTERM)) from None
    except PeerEndedError:
        if stop.signal:
            raise SystemExit(_report_stop(trainer, stop.signal)) from None
        if launcher() is None:  # which prints the line
            print(
                "stopped, as another process of this run has ended: its own output says why", file=sys.stderr
            )
        raise SystemExit(_code_of_others(trainer)) from None
    except SystemExit:
        if not trainer.interrupted:
            raise
        if not trainer.is_global_zero:
            raise SystemExit(INTERRUPTED) from None
        raise KeyboardInterrupt from None  # which Lightning turns into an exit code of 1
    except BaseException:
        _end_others(trainer)
        raise


@contextmanager
def kept_sigint() -> Iterator[None]:
    """Restore the handler of SIGINT after the block: after a KeyboardInterrupt before training, Lightning
    leaves SIGINT ignored for the rest of the process."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _report_stop(trainer: pl.Trainer, number: int) -> int:
    """Print how to resume the run, and return the exit code."""
    if trainer.is_global_zero:
        name = signal.Signals(number).name
        print(f"stopped by {name}; resume with --ckpt_path {last_checkpoint(trainer)}", file=sys.stderr)
    # Lightning kills a process, busy or not, when one that it has launched ends with a code other than 0.
    return ENDED_BY + number if launcher() is None else 0


def last_checkpoint(trainer: pl.Trainer) -> str:
    """The path of the newest checkpoint of this run, or a note that there is none."""
    paths = [getattr(callback, "last_model_path", "") for callback in trainer.checkpoint_callbacks]
    return next((path for path in paths if path), "(no checkpoint was written)")


def _launched(trainer: pl.Trainer) -> list[Any]:
    """The processes of the ranks that this one has launched."""
    launcher = trainer.strategy.launcher
    return launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []


def _code_of_others(trainer: pl.Trainer) -> int:
    """The exit code of a launched rank that has failed, or 1; those that still run are killed."""
    deadline = time.monotonic() + CHILD_SECONDS
    processes = _launched(trainer)
    while processes and not any(process.poll() for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    _end_others(trainer)
    return next((process.returncode for process in processes if process.returncode), 1)


def _end_others(trainer: pl.Trainer) -> None:
    """Kill the ranks that this one has launched; they may wait for this one in a collective operation."""
    for process in _launched(trainer):
        process.kill()
