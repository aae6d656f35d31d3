"""Running of units of work: in this process, in processes of this machine, or on a Ray cluster.

A `Task` is a list of units and a function that does them. An `Engine` runs a task and yields each unit when
it is done, in any order. The files that a unit writes must not depend on the worker, so that they are the
same on every engine.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Generic, Protocol, Self, TypeVar

from tqdm import tqdm

from core.errors import InputError
from core.workers import ONLY_WORKER, Worker

Unit = TypeVar("Unit")
Result = TypeVar("Result")

LOCAL, RAY = "local", "ray"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Task(Generic[Unit, Result]):
    """Units of work, and how they are done.

    Args:
        kind: kind of work, for errors: "capture"
        title: title of the progress bar
        open: called once in each worker; loads what all units share, such as a model, and returns the
            function that does one unit. `open`, the units and their results must pickle.
        units: the units
        sizes: the size of each unit in the progress bar; 1 each by default
        noun: what the sizes count, in the singular
        done: total size of the units that an earlier run has done
        own_bars: whether units show progress bars of their own; a single unit in this process has no other
    """

    kind: str
    title: str
    open: Callable[[Worker], Callable[[Unit], Result]]
    units: Sequence[Unit]
    sizes: Sequence[int] | None = None
    noun: str = "unit"
    done: int = 0
    own_bars: bool = False

    def size(self, index: int) -> int:
        """The size of unit `index` in the progress bar."""
        return 1 if self.sizes is None else self.sizes[index]

    def bar(self, hidden: bool = False) -> tqdm:
        """The progress bar of all units."""
        total = self.done + sum(self.size(index) for index in range(len(self.units)))
        return tqdm(total=total, initial=self.done, unit=self.noun, desc=self.title, disable=hidden)


@dataclass(frozen=True)
class Done:
    """The index of a unit, and its result; or, if it was given up, the reason as `failure`."""

    index: int
    result: Any = None
    failure: str | None = None


class Engine(Protocol):
    """Something that runs tasks."""

    def run(self, task: Task[Unit, Result]) -> Iterator[Done]:
        """Do all units of a task, with a progress bar, and yield each when it is done.

        Exceptions of `open` and of units are raised, unless the engine retries them. Raises InputError if
        there are no workers.
        """
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Runs units in this process or in worker processes of this machine, without retries.

    If a worker process dies, raises InputError.

    Args:
        processes: number of worker processes; 0 to use this process
        remedy: remedy in the error message if a process dies or memory runs out
        threads: threads of each process for linear algebra; by default the libraries' own number
    """

    processes: int = 0
    remedy: str | None = None
    threads: int | None = None

    def run(self, task: Task[Unit, Result]) -> Iterator[Done]:
        """See `Engine.run`."""
        if not task.units and not task.done:
            return
        processes = min(self.processes, len(task.units))
        hidden = task.own_bars and processes == 0 and len(task.units) == 1
        with task.bar(hidden) as bar, self._one_line(task.kind):
            for done in _in_processes(task, processes, self.threads) if processes else _here(task):
                bar.update(task.size(done.index))
                yield done

    @contextmanager
    def _one_line(self, kind: str) -> Iterator[None]:
        """Raise InputError with the remedy if a worker dies, or memory runs out here or in a worker."""
        try:
            yield
        except BrokenProcessPool as error:
            died = f"a {kind} process died, perhaps for lack of memory"
            raise InputError(": ".join(filter(None, [died, self.remedy]))) from error
        except MemoryError as error:
            if self.remedy is None:
                raise
            raise InputError(f"out of memory: {self.remedy}") from error


THIS_PROCESS = LocalEngine()


def _here(task: Task[Unit, Result]) -> Iterator[Done]:
    if task.units:
        do = task.open(ONLY_WORKER)
        yield from (Done(index, do(unit)) for index, unit in enumerate(task.units))


def _in_processes(task: Task[Unit, Result], processes: int, threads: int | None) -> Iterator[Done]:
    with _threads(threads):
        context = get_context("spawn")
        begun = context.Value("i", 0)
        pool = ProcessPoolExecutor(
            processes, context, initializer=_begin, initargs=(task.open, begun, processes)
        )
        try:
            yield from _drain(pool, task.units, 2 * processes)
        finally:
            pool.shutdown(cancel_futures=True)


def _drain(pool: ProcessPoolExecutor, units: Sequence[Unit], ahead: int) -> Iterator[Done]:
    """Keep at most `ahead` units submitted, so that an error or ctrl-c ends the run soon."""
    waiting = iter(range(len(units)))
    running: dict[Future[Any], int] = {}
    while True:
        while len(running) < ahead and (index := next(waiting, None)) is not None:
            running[pool.submit(_do_unit, units[index])] = index
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield Done(running.pop(future), future.result())


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Limit worker processes started in the block to `count` threads each for linear algebra."""
    before = {name: os.environ.get(name) for name in THREADS}
    if count is not None:
        os.environ.update(dict.fromkeys(THREADS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# Set when a worker process starts, so that `open` is sent once per process instead of with every unit. It is
# called by the first unit, because exceptions of an initializer do not reach the parent process.
_open: Callable[[], Callable[[Any], Any]]
_do: Callable[[Any], Any] | None = None


def _begin(
    opens: Callable[[Worker], Callable[[Any], Any]], begun: "Synchronized[int]", processes: int
) -> None:
    """Initialize a worker process; `begun` counts them."""
    global _open
    with begun.get_lock():
        number = begun.value
        begun.value += 1
    worker = Worker(number, processes, shown=False)
    _open = partial(opens, worker)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the command is killed, instead of waiting for work forever."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _do_unit(unit: Any) -> Any:
    global _do
    if _do is None:
        _do = _open()
    return _do(unit)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where units of work run.

    Args:
        engine: local, or a Ray cluster (`pip install '.[cluster]'`): ray for that of this machine, which is
            started if there is none; ray:ADDRESS for another
        num_cpus: CPU cores of each worker of the cluster, and its threads for linear algebra
        num_gpus: GPUs of each worker of the cluster; 0 to run on CPUs
        workers: largest number of workers of the cluster; by default as many as fit

    Raises InputError for inconsistent values, or if Ray is not installed.
    """

    engine: str = LOCAL
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    workers: int | None = None

    def __post_init__(self) -> None:
        name, colon, address = self.engine.partition(":")
        if name not in (LOCAL, RAY) or (name == LOCAL and colon) or (colon and not address):
            raise InputError(f"--engine {self.engine}: choose local, ray or ray:ADDRESS")
        changed = [name for name in ("num_cpus", "num_gpus", "workers") if self._differs(name)]
        if not self.on_ray:
            if changed:
                raise InputError(f"--{changed[0]} applies to workers of a cluster: give --engine ray as well")
            return
        if not self.num_cpus > 0 or not self.num_gpus >= 0 or (self.workers is not None and self.workers < 1):
            raise InputError("--num_cpus and --workers take more than 0, --num_gpus 0 or more")
        if find_spec("ray") is None:
            raise InputError("--engine ray needs Ray: pip install 'diffportrait3d[cluster]'")

    @property
    def on_ray(self) -> bool:
        """Whether units run on a Ray cluster."""
        return self.engine != LOCAL

    def _differs(self, name: str) -> bool:
        return getattr(self, name) != getattr(EngineOptions, name)

    @classmethod
    def take(cls, values: dict[str, Any]) -> Self:
        """Remove these options from a command's values, and return them."""
        return cls(**{option.name: values.pop(option.name) for option in fields(EngineOptions)})

    def cluster(self) -> Engine | None:
        """The engine of the cluster; None for local."""
        if not self.on_ray:
            return None
        from core.ray_engine import RayEngine  # imports Ray

        return RayEngine(self.engine.partition(":")[2] or None, self.num_cpus, self.num_gpus, self.workers)

    def devices_for(self, count: int | None, name: str | None) -> list[str]:
        """The devices of this machine, as `find_devices`, or of each worker of the cluster. Raises InputError
        for unknown ones, and on a cluster for any `count` or `name`."""
        if self.on_ray:
            if (count, name) != (None, None):
                raise InputError(
                    "--device and --devices are for this machine: on a cluster, give --workers and --num_gpus"
                )
            return self.cluster_devices()
        from core.devices import find_devices  # imports torch

        return find_devices(count, name)

    def cluster_devices(self) -> list[str]:
        """The devices of each worker of the cluster: its GPUs, or the CPU."""
        return [f"cuda:{number}" for number in range(math.ceil(self.num_gpus))] or ["cpu"]

    def cluster_device(self, asked: str | None = None) -> str:
        """The first device of each worker of the cluster. Raises InputError if another is `asked` for."""
        device = self.cluster_devices()[0]
        if asked is not None and asked.partition(":")[0] != device.partition(":")[0]:
            raise InputError(f"--device {asked}: on a cluster, --num_gpus selects GPUs or CPUs: leave it out")
        return device
