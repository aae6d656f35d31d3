"""The interface of a source of frames."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from core.workers import ONLY_WORKER, Worker
from shards.schema import Sample
from shards.skips import Skip

Unit = Any  # a unit of work; each source chooses its type, which must pickle


class Source(ABC):
    """A source of frames, divided into units of work that worker processes capture independently.

    A source must pickle, and its samples must be a function of its `settings`, which are recorded in the
    manifest. Its `name` is the first part of its samples' keys. A source whose units are a user's own files
    names their kind in `inputs`, such as "photos": the build then uses those that it can, and lists the
    others at the end.
    """

    name: str
    settings: dict[str, Any]
    inputs: str | None = None

    @property
    def processes(self) -> int | None:
        """The suitable number of worker processes; None for one per core."""
        return None

    @abstractmethod
    def units(self) -> Sequence[Unit]:
        """The units of work, in a fixed order. The frames of a unit belong to one split."""

    @abstractmethod
    def frames(self, unit: Unit) -> int:
        """The number of frames expected from a unit."""

    @abstractmethod
    def capture(self, unit: Unit, worker: Worker = ONLY_WORKER) -> Sequence[Sample | Skip]:
        """Capture the frames of a unit, with skips for what cannot be used; the same at every call and for
        every worker.

        It is called in the process of `worker`, whose number determines its GPU and CPU cores.
        """
