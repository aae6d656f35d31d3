"""An engine that gives up some units, as a cluster does with those that kill their workers."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from core.engine import THIS_PROCESS, Done, Result, Task, Unit

REASON = "its worker died, 3 times"


@dataclass(frozen=True)
class GivesUp:
    """Does all units in this process, but those of these indices."""

    bad: Collection[int]

    def run(self, task: Task[Unit, Result]) -> Iterator[Done]:
        """See `Engine.run`."""
        good = [index for index in range(len(task.units)) if index not in self.bad]
        own = replace(task, units=[task.units[index] for index in good], sizes=None)
        for done in THIS_PROCESS.run(own):
            yield replace(done, index=good[done.index])
        for index in self.bad:
            yield Done(index, failure=REASON)
