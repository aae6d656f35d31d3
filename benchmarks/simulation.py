"""A simulation of units of work on many workers, event by event: start-up, slow workers, workers that die.

Every worker takes the next unit when it is free. A worker that dies loses its unit, which another one takes
once the death is noticed, and is replaced. Times are in seconds.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from core.seeding import numpy_generator


@dataclass(frozen=True)
class Cluster:
    """Workers and what happens to them.

    Args:
        workers: the number of workers
        startup: seconds from asking for a worker until it takes its first unit
        slow_share: the share of workers that are slow
        slow_factor: how much longer a slow worker takes for a unit
        lifetime: mean seconds until a worker dies, from an exponential distribution
        notice: seconds until a death is noticed; then the unit is free, and a new worker starts
    """

    workers: int
    startup: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    lifetime: float = float("inf")
    notice: float = 0.0


@dataclass(frozen=True)
class Run:
    """The outcome: seconds until the last unit is done, the sum of the units' own durations, the workers,
    and how many units were lost and run again."""

    makespan: float
    work: float
    workers: int
    lost: int

    @property
    def cost(self) -> float:
        """Worker-seconds: all workers are held until the last unit is done."""
        return self.workers * self.makespan

    @property
    def efficiency(self) -> float:
        """The share of the cost that is the units' own work."""
        return self.work / self.cost


class _Kind(IntEnum):
    """What happens, in the order of simultaneous events."""

    DONE = 0
    FREED = 1
    READY = 2
    DEAD = 3


def simulate(durations: Sequence[float], cluster: Cluster, seed: int = 0) -> Run:
    """Run units of these durations, in their order, on a cluster. The same arguments give the same run."""
    return _Simulation(durations, cluster, seed).run()


class _Simulation:
    def __init__(self, durations: Sequence[float], cluster: Cluster, seed: int) -> None:
        self.durations, self.cluster = durations, cluster
        self.waiting = deque(range(len(durations)))
        self.idle: list[int] = []
        self.events: list[tuple[float, _Kind, int, int]] = []  # (time, kind, worker, unit)
        self.deaths = numpy_generator(seed, "deaths")
        slow = numpy_generator(seed, "slow").random(cluster.workers) < cluster.slow_share
        self.factor = np.where(slow, cluster.slow_factor, 1.0)
        self.dies = np.full(cluster.workers, np.inf)
        self.lost = 0

    def run(self) -> Run:
        """Process events until no unit is left."""
        left = len(self.durations)
        for worker in range(self.cluster.workers):
            self._start(0.0, worker)
        now = 0.0
        while left:
            now, kind, worker, unit = heapq.heappop(self.events)
            if kind is _Kind.DEAD:
                self._die(now, worker, unit)
            elif kind is _Kind.FREED:
                self.waiting.appendleft(unit)
                if self.idle:
                    self._next(now, self.idle.pop())
            else:
                left -= kind is _Kind.DONE
                self._next(now, worker)
        return Run(now, float(sum(self.durations)), self.cluster.workers, self.lost)

    def _start(self, now: float, worker: int) -> None:
        """Ask for a worker, which is ready after its start-up."""
        ready = now + self.cluster.startup
        if np.isfinite(self.cluster.lifetime):
            self.dies[worker] = ready + self.deaths.exponential(self.cluster.lifetime)
        heapq.heappush(self.events, (ready, _Kind.READY, worker, -1))

    def _next(self, now: float, worker: int) -> None:
        """Give a free worker the next unit, or let it wait for one that is lost."""
        if self.dies[worker] <= now:  # it died while it waited
            self._start(now, worker)
        elif not self.waiting:
            self.idle.append(worker)
        else:
            unit = self.waiting.popleft()
            done = now + self.durations[unit] * self.factor[worker]
            if self.dies[worker] < done:
                heapq.heappush(self.events, (float(self.dies[worker]), _Kind.DEAD, worker, unit))
            else:
                heapq.heappush(self.events, (float(done), _Kind.DONE, worker, unit))

    def _die(self, now: float, worker: int, unit: int) -> None:
        """Lose a worker and its unit."""
        self.lost += 1
        noticed = now + self.cluster.notice
        heapq.heappush(self.events, (noticed, _Kind.FREED, worker, unit))
        self._start(noticed, worker)
