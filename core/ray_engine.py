"""Units of work on a Ray cluster: models are loaded once a worker, units of a dead worker are done again."""

import logging
import math
import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from core.engine import THREADS, Done, Result, Task, Unit
from core.errors import REMEDIES, InputError
from core.workers import Worker

TRIES = 3  # after which a unit is given up
HOPELESS = 30  # tries in a row, and those of all workers at once, after which a run ends
REFRESH_SECONDS = 2.0  # of the progress bar


@dataclass(frozen=True)
class RayEngine:
    """A Ray cluster.

    A unit whose worker dies, or that raises an unexpected exception, is done again by a new worker, up to
    `TRIES` times; then it is given up. An InputError ends the run, as it would anywhere, and so do the system
    errors of `core.errors.REMEDIES`.

    Args:
        address: of the cluster; None for the one that this machine belongs to, or else a new one on it
        num_cpus: CPU cores of each worker
        num_gpus: GPUs of each worker
        workers: largest number of workers; by default as many as the cluster has room for
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    workers: int | None = None

    def run(self, task: Task[Unit, Result]) -> Iterator[Done]:
        """See `Engine.run`."""
        if not task.units:
            return
        self.connect()
        with task.bar() as bar:
            run = _Run(self, task)
            try:
                run.hire(min(len(task.units), self.workers or self.room()))
                while run.unfinished:
                    bar.set_postfix_str(run.state)
                    for done in run.wait():
                        bar.update(task.size(done.index))
                        yield done
                bar.set_postfix_str(run.state)
            finally:
                run.end()

    def connect(self) -> None:
        """Connect to the cluster, if this process is not connected yet. Raises InputError."""
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            ray.init(self.address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            name = "ray" if self.address is None else f"ray:{self.address}"
            raise InputError(f"--engine {name}: there is no cluster: {reason}") from error

    def room(self) -> int:
        """The number of workers that the cluster's nodes have room for. Raises InputError if it is none."""
        needed = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        count = 0
        for node in ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            count += min(int(has.get(name, 0) / each) for name, each in needed.items() if each)
        if count == 0:
            raise InputError(
                f"the cluster has no node with {self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs: lower"
                " --num_cpus or --num_gpus"
            )
        return count


class _Hand:
    """A worker of the cluster: what a task opens, and the function that does its units."""

    def open(self, folder: str, opens: Any, worker: Worker) -> None:
        """Load what all units share; the command's paths may be relative to its `folder`."""
        os.chdir(folder)
        self._do = opens(worker)

    def do(self, unit: Any) -> Any:
        """Do one unit."""
        return self._do(unit)


@dataclass
class _Run:
    """One run of a task: units that wait, and what each worker does."""

    engine: RayEngine
    task: Task[Any, Any]
    waiting: deque[int] = field(default_factory=deque)
    tries: Counter[int] = field(default_factory=Counter)
    hands: dict[Any, tuple[Any, int | None]] = field(default_factory=dict)  # by what is awaited of them
    finished: int = 0
    unopened: int = 0  # workers in a row that could not open
    failed: int = 0  # tries in a row that failed
    most: int = 0  # workers at a time

    def __post_init__(self) -> None:
        self.waiting.extend(range(len(self.task.units)))
        self.opens = ray.put(self.task.open)

    @property
    def unfinished(self) -> bool:
        """Whether there are units that wait or are being done."""
        return bool(self.waiting) or any(index is not None for _, index in self.hands.values())

    @property
    def state(self) -> str:
        """Units and workers, for the progress bar."""
        working = sum(index is not None for _, index in self.hands.values())
        opening = len(self.hands) - working
        more = f" and {opening} opening" if opening else ""
        return f"{self.finished}/{len(self.task.units)} units, workers: {working}{more}"

    def hire(self, count: int) -> None:
        """Start workers, each of which opens what it needs first."""
        engine = self.engine
        threads = max(1, math.floor(engine.num_cpus))
        environment = dict.fromkeys(THREADS, str(threads))
        if not engine.num_gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        needs = {"num_cpus": engine.num_cpus, "num_gpus": engine.num_gpus}
        kind = ray.remote(_Hand).options(**needs, runtime_env={"env_vars": environment})
        worker = Worker(cores=threads, shown=False)  # a worker's GPUs are the only ones that it sees
        self.most = max(self.most, count)
        for _ in range(count):
            hand = kind.remote()
            self.hands[hand.open.remote(os.getcwd(), self.opens, worker)] = (hand, None)

    def wait(self) -> list[Done]:
        """Wait a little for a worker, and give it its next unit; returns the unit that it has finished, if
        any. Raises what ends the run."""
        ready, _ = ray.wait(list(self.hands), num_returns=1, timeout=REFRESH_SECONDS)
        return [done for awaited in ready if (done := self._take(awaited)) is not None]

    def _take(self, awaited: Any) -> Done | None:
        """What a worker has answered."""
        hand, index = self.hands.pop(awaited)
        try:
            result = ray.get(awaited)
        except RayError as error:
            ray.kill(hand)  # after an unexpected error its models, or its GPU, may be in any state
            reason = _reason(error)
            done = self._unopened(reason) if index is None else self._again(index, reason)
            if self.waiting:
                self.hire(1)
            return done
        self._next(hand)
        if index is None:
            self.unopened = 0
            return None
        self.finished += 1
        self.failed = 0
        return Done(index, result)

    def _next(self, hand: Any) -> None:
        """Give a worker the next unit, or let it go."""
        if self.waiting:
            index = self.waiting.popleft()
            self.hands[hand.do.remote(self.task.units[index])] = (hand, index)
        else:
            ray.kill(hand)

    def _unopened(self, reason: str) -> None:
        self.unopened += 1
        if self.unopened >= TRIES * self.most:
            raise InputError(f"{self.unopened} workers in a row could not begin; the last: {reason}")

    def _again(self, index: int, reason: str) -> Done | None:
        """Put a unit back, or give it up. Raises InputError if everything fails."""
        self.tries[index] += 1
        self.failed += 1
        if self.failed >= HOPELESS + TRIES * self.most:
            raise InputError(f"{self.failed} tries in a row failed; the last: {reason}")
        if self.tries[index] < TRIES:
            self.waiting.append(index)
            return None
        self.finished += 1
        return Done(index, None, f"{reason}, {TRIES} times")

    def end(self) -> None:
        """Let all workers go."""
        for hand, _ in self.hands.values():
            ray.kill(hand)


def _reason(error: RayError) -> str:
    """Why a worker has not answered, in a few words. Raises the cause where it ends the run."""
    if isinstance(error, RayActorError):
        return "its worker died"
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, InputError) or (isinstance(cause, OSError) and cause.errno in REMEDIES):
        raise cause from None
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"
