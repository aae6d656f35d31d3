"""An engine that gives up some units, as a cluster does with those that kill their workers."""

import pickle
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from core.engine import THIS_PROCESS, Done, Result, Task, Unit

REASON = "its worker died, 3 times"


@dataclass(frozen=True)
class GivesUp:
    """Runs a pickled copy of a task in this process, and gives up the units with these indices."""

    bad: Collection[int]

    def run(self, task: Task[Unit, Result]) -> Iterator[Done]:
        """See `Engine.run`."""
        good = [index for index in range(len(task.units)) if index not in self.bad]
        units = [task.units[index] for index in good]
        opens, units = pickle.loads(pickle.dumps((task.open, units)))
        for done in THIS_PROCESS.run(replace(task, open=opens, units=units, sizes=None)):
            yield replace(done, index=good[done.index])
        for index in self.bad:
            yield Done(index, failure=REASON)
