"""The interface of a source of frames."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from core.workers import ONLY_WORKER, Worker
from shards.schema import Sample
from shards.skips import Skip

Unit = Any  # a piece of work, of whatever type a source likes; it must pickle


class Source(ABC):
    """A source of frames, divided into units of work that worker processes capture independently.

    A source must pickle, and all that it yields must follow from its `settings`, which are recorded in the
    manifest. Its `name` is the first part of the keys of its samples. A source whose units are a user's own
    files says what they are in `inputs`, such as "photos": the build then uses those that it can, and names
    the others at the end.
    """

    name: str
    settings: dict[str, Any]
    inputs: str | None = None

    @property
    def processes(self) -> int | None:
        """The number of worker processes that suits the source; None for one per core."""
        return None

    @abstractmethod
    def units(self) -> Sequence[Unit]:
        """The units of work, in a fixed order. The frames of a unit belong to one split."""

    @abstractmethod
    def frames(self, unit: Unit) -> int:
        """The number of frames expected from a unit."""

    @abstractmethod
    def capture(self, unit: Unit, worker: Worker = ONLY_WORKER) -> Sequence[Sample | Skip]:
        """The frames of a unit and what of it could not be used, the same at every call and for every worker.

        It is called in the process of `worker`, by whose number processes divide GPUs and CPU cores.
        """
