"""The engine that runs units of work on a Ray cluster. A worker is a Ray actor, which loads models once."""

import logging
import math
import os
import socket
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from core.engine import THREADS, Done, Result, Task, Unit
from core.errors import REMEDIES, InputError
from core.workers import Worker

TRIES = 3  # number of tries after which a unit is given up
MOST_FAILURES = 30  # a run ends after this many failed tries in a row, plus `TRIES` for each worker
CONNECT_SECONDS = 10.0
REFRESH_SECONDS = 2.0  # interval of updates of the progress bar


@dataclass(frozen=True)
class RayEngine:
    """A Ray cluster.

    A unit whose worker dies, or that raises an unexpected exception, is retried on a new worker. After
    `TRIES` tries it is given up. An InputError ends the run, and so do the system errors in
    `core.errors.REMEDIES`.

    Args:
        address: address of the cluster; by default that of this machine, or a new one on it
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
                run.start(min(len(task.units), self.workers or self.room()))
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
            self._check_reachable()
            ray.init(self.address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            name = "ray" if self.address is None else f"ray:{self.address}"
            raise InputError(f"--engine {name}: there is no cluster: {reason}") from error

    def _check_reachable(self) -> None:
        """Raise OSError if nothing listens at the address, which Ray would try for minutes."""
        if self.address is not None:
            place = urlsplit(self.address if "://" in self.address else f"ray://{self.address}")
            if place.port is not None:
                socket.create_connection((place.hostname, place.port), CONNECT_SECONDS).close()

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


class _Actor:
    """A worker process of the cluster."""

    def open(self, folder: str, opens: Any, worker: Worker) -> None:
        """Open a task, whose paths may be relative to `folder`."""
        os.chdir(folder)
        self._do = opens(worker)

    def do(self, unit: Any) -> Any:
        """Do one unit and return its result."""
        return self._do(unit)


@dataclass
class _Run:
    """The state of one run of a task.

    `calls` maps the Ray object of each running call to its actor and its unit's index; None while the actor
    opens the task.
    """

    engine: RayEngine
    task: Task[Any, Any]
    waiting: deque[int] = field(default_factory=deque)
    tries: Counter[int] = field(default_factory=Counter)
    calls: dict[Any, tuple[Any, int | None]] = field(default_factory=dict)
    finished: int = 0
    failed_opens: int = 0  # in a row
    failed_units: int = 0  # in a row
    actors: int = 0  # at the start

    def __post_init__(self) -> None:
        self.waiting.extend(range(len(self.task.units)))
        self.opens = ray.put(self.task.open)

    @property
    def unfinished(self) -> bool:
        """Whether units are waiting or running."""
        return bool(self.waiting) or any(index is not None for _, index in self.calls.values())

    @property
    def state(self) -> str:
        """The number of finished units and of workers, for the progress bar."""
        working = sum(index is not None for _, index in self.calls.values())
        opening = len(self.calls) - working
        more = f" and {opening} opening" if opening else ""
        return f"{self.finished}/{len(self.task.units)} units, workers: {working}{more}"

    def start(self, count: int) -> None:
        """Start actors, which first open the task."""
        engine = self.engine
        threads = max(1, math.floor(engine.num_cpus))
        environment = dict.fromkeys(THREADS, str(threads))
        if not engine.num_gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        resources = {"num_cpus": engine.num_cpus, "num_gpus": engine.num_gpus}
        kind = ray.remote(_Actor).options(**resources, runtime_env={"env_vars": environment})
        worker = Worker(cores=threads, shown=False)  # Ray shows each actor its own GPUs only
        self.actors = max(self.actors, count)
        for _ in range(count):
            actor = kind.remote()
            self.calls[actor.open.remote(os.getcwd(), self.opens, worker)] = (actor, None)

    def wait(self) -> list[Done]:
        """Wait for a call to end, at most `REFRESH_SECONDS`, and return the unit that is finished, if any.
        Raises errors that end the run."""
        ended, _ = ray.wait(list(self.calls), num_returns=1, timeout=REFRESH_SECONDS)
        return [done for call in ended if (done := self._finish(call)) is not None]

    def _finish(self, call: Any) -> Done | None:
        """Handle the result of a call."""
        actor, index = self.calls.pop(call)
        try:
            result = ray.get(call)
        except RayError as error:
            ray.kill(actor)  # after an unexpected error its model or its GPU may be in any state
            reason = _reason(error)
            done = None
            if index is None:
                self._failed_open(reason)
            else:
                done = self._failed_unit(index, reason)
            if self.waiting:
                self.start(1)
            return done
        self._next(actor)
        if index is None:
            self.failed_opens = 0
            return None
        self.finished += 1
        self.failed_units = 0
        return Done(index, result)

    def _next(self, actor: Any) -> None:
        """Give the next unit to an actor, or end it if there is none."""
        if self.waiting:
            index = self.waiting.popleft()
            self.calls[actor.do.remote(self.task.units[index])] = (actor, index)
        else:
            ray.kill(actor)

    def _failed_open(self, reason: str) -> None:
        """Count an actor that could not open the task. Raises InputError after too many in a row."""
        self.failed_opens += 1
        if self.failed_opens >= TRIES * self.actors:
            raise InputError(f"{self.failed_opens} workers in a row could not start; the last: {reason}")

    def _failed_unit(self, index: int, reason: str) -> Done | None:
        """Put a unit back, or give it up. Raises InputError after too many failures in a row."""
        self.tries[index] += 1
        self.failed_units += 1
        if self.failed_units >= MOST_FAILURES + TRIES * self.actors:
            raise InputError(f"{self.failed_units} tries in a row failed; the last: {reason}")
        if self.tries[index] < TRIES:
            self.waiting.append(index)
            return None
        self.finished += 1
        return Done(index, failure=f"{reason}, {TRIES} times")

    def end(self) -> None:
        """End all actors."""
        for actor, _ in self.calls.values():
            ray.kill(actor)


def _reason(error: RayError) -> str:
    """The reason of a failed call in a few words. Raises its cause if that ends the run."""
    if isinstance(error, RayActorError):
        return "its worker died"
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, InputError) or (isinstance(cause, OSError) and cause.errno in REMEDIES):
        raise cause from None
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"
