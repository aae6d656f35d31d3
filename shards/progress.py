"""Progress within units of work: workers write how much of a unit is done, and the command's bar reads it.

It goes through small files beside the units' tars, which every kind of worker can write.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

log = logging.getLogger(__name__)

ENDING = ".progress"
REFRESH_SECONDS = 1.0
LEAST_SHARE = 0.5  # share of the first unit that must be done before a forecast


def reporter(folder: Path, index: int) -> Callable[[float], None]:
    """A function that records which share of unit `index` is done; at 1 the record is removed."""
    return partial(_record, folder / f"{index:06d}{ENDING}")


def _record(path: Path, share: float) -> None:
    with suppress(OSError):  # only progress is lost
        if share < 1:
            path.write_text(f"{share:.4f}")
        else:
            path.unlink(missing_ok=True)


def shares(folder: Path) -> dict[int, float]:
    """The completed shares of the units in progress."""
    found = {}
    for path in folder.glob(f"*{ENDING}"):
        with suppress(OSError, ValueError):  # it is being written or was just removed
            found[int(path.stem)] = min(1.0, float(path.read_text()))
    return found


class UnitBar(tqdm):
    """A progress bar over units of different sizes in `folder`, which also moves within units.

    Early on, it logs once how long the rest will take, by what was measured so far.
    """

    n: float

    def __init__(self, folder: Path, sizes: Mapping[int, int], **options: Any) -> None:
        self._folder, self._sizes = folder, sizes
        self._whole, self._title = options.get("initial", 0), options.get("desc", "")
        self._began = time.monotonic()
        self._forecast = False
        self._first: tuple[float, float] | None = None  # when units first reported, and how much
        self._change = threading.Lock()
        self._closing = threading.Event()
        for path in folder.glob(f"*{ENDING}"):  # of an interrupted run
            path.unlink(missing_ok=True)
        super().__init__(**options)
        self._watch = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._watch.join()
        super().__exit__(kind, error, traceback)

    def update(self, n: float | None = 1) -> bool | None:
        """Count a unit of size `n` that is done."""
        with self._change:
            self._whole += n or 0
        self.look()
        return None

    def look(self) -> None:
        """Update the bar, counting units in progress by their completed shares."""
        with self._change:
            parts = sum(share * self._sizes.get(index, 0) for index, share in shares(self._folder).items())
            self.n = max(self.n, min(self.total, int(self._whole + parts)))
            self._say(self._whole + parts)
        self.refresh()

    def _follow(self) -> None:
        while not self._closing.wait(REFRESH_SECONDS):
            self.look()

    def _say(self, done: float) -> None:
        """Log the expected time once enough is done to know the rate.

        Where units report progress, the start of workers does not count."""
        now, fresh = time.monotonic(), done - self.initial
        if self._forecast or not self._sizes or fresh <= 0:
            return
        if self._first is None:
            self._first = now, done
        if fresh < LEAST_SHARE * min(self._sizes.values()):
            return
        self._forecast = True
        began, had = self._first if done > self._first[1] else (self._began, self.initial)
        seconds = (now - began) / (done - had) * (self.total - done)
        self.clear()
        log.info(
            "%s: about %s left for %d frames, by the first %.1f",
            *(self._title, timedelta(seconds=round(seconds)), round(self.total - done), fresh),
        )
