"""The queue of requests: one at a time on each device, with progress, previews and cancellation."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock
from typing import Any

from PIL import Image
from torch import Tensor

from core.errors import InputError
from core.lists import spread
from lightning_modules.sampling.call_options import to_output
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.requests import Request
from lightning_modules.sampling.schedulers import sampled_timesteps, scheduler_for
from lightning_modules.sampling.settings import PREVIEW, VAE
from lightning_modules.synthesize import Loaded, synthesize

PREVIEWS = 4  # views that are previewed during sampling
PREVIEW_SHARE = 0.2  # largest share of the time spent on previews
POLL = 0.1  # seconds
MAX_WAITING = 16  # requests; each blocks a thread of the server

WAITING = "waiting"
READING, CONDITIONS, SAMPLING = "reading photos", "rendering conditions", "sampling"


@dataclass(frozen=True)
class Progress:
    """The progress of a request.

    Args:
        stage: name of the current stage.
        done: number of views or steps of the stage that are done.
        total: number of views or steps of the stage.
        seconds_left: estimated time until the stage ends; None if unknown.
        views: number of views of the request.
        previews: the newest previews.
        place: place in the queue from 1, while the request waits.
    """

    stage: str = READING
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    views: int = 0
    previews: Sequence[Image.Image] = ()
    place: int = 0


@dataclass(eq=False)
class Watch:
    """The callbacks of one request: report its progress, and raise CancelledError once it is cancelled."""

    request: Request
    report: Callable[[Progress], None]
    cancelled: Event
    started: float = 0.0
    previewed: float = field(default=0.0, init=False)  # seconds that previews took
    previews: Sequence[Image.Image] = field(default=(), init=False)

    def on_rendered(self, done: int, total: int) -> None:
        """Report the number of condition images that are rendered."""
        self._tell(CONDITIONS, done, total, total)

    def on_step_end(
        self, pipeline: DiffPortrait3DPipeline, step: int, _timestep: Tensor, tensors: Mapping[str, Tensor]
    ) -> None:
        """Report a step; from time to time also decode the clean latents that it predicts, of a few views, as
        previews."""
        if step == 0:
            self.started, self.previewed = time.monotonic(), 0.0
        views, total = len(tensors["latents"]), sampled_steps(pipeline, self.request)
        spent = time.monotonic() - self.started
        if self.previewed <= PREVIEW_SHARE * spent and "pred_original_sample" in tensors:
            start = time.monotonic()
            shown = tensors["pred_original_sample"][spread(views, PREVIEWS, ends=True)]
            decoder = VAE if pipeline.preview_decoder is None else PREVIEW
            levels = pipeline.decode(shown, self.request.chunk, levels=True, decoder=decoder)
            self.previews = list(to_output(levels, "pil"))
            self.previewed += time.monotonic() - start
        self._tell(SAMPLING, step + 1, total, views)

    def _tell(self, stage: str, done: int, total: int, views: int) -> None:
        if self.cancelled.is_set():
            raise CancelledError
        now = time.monotonic()
        first = stage == SAMPLING and done == 1  # timed from its end, as it also warms up
        left = None if first or not self.started else (now - self.started) / max(done - 1, 1) * (total - done)
        self.report(Progress(stage, done, total, left, views, self.previews))
        if not self.started:
            self.started = now


def sampled_steps(pipeline: DiffPortrait3DPipeline, request: Request) -> int:
    """The number of denoising steps of a request."""
    aware = request.noise != "random" and pipeline.noise_prior is not None
    scheduler = scheduler_for(pipeline.scheduler, request.sampling(None))
    return len(sampled_timesteps(scheduler, request.strength if aware else 1.0))


@dataclass
class Job:
    """A submitted request."""

    future: "Future[Path]"
    reports: "SimpleQueue[Progress]"
    cancelled: Event

    def cancel(self) -> None:
        """Cancel the request: `follow` ends at once, and the device is free after the current step."""
        self.cancelled.set()
        self.future.cancel()

    def follow(self) -> Iterator[Progress]:
        """Yield the newest progress whenever it changes, until the request ends. Raises CancelledError once
        it is cancelled."""
        while not self.cancelled.is_set():
            newest = self._newest()
            if newest is not None:
                yield newest
            elif self.future.done():
                return
        raise CancelledError

    def result(self) -> Path:
        """The folder of the results; call it once `follow` has ended. Raises the error that ended the
        request."""
        return self.future.result()

    def _newest(self) -> Progress | None:
        newest = None
        try:
            newest = self.reports.get(timeout=POLL)
            while True:
                newest = self.reports.get_nowait()
        except Empty:
            return newest


class Workers:
    """A worker thread for each pipeline, which is on a device of its own; requests wait for a free one."""

    def __init__(self, pipelines: Sequence[DiffPortrait3DPipeline]) -> None:
        self.count = len(pipelines)
        self._free: SimpleQueue[DiffPortrait3DPipeline] = SimpleQueue()
        for pipeline in pipelines:
            self._free.put(pipeline)
        self._pool = ThreadPoolExecutor(self.count, "device")
        self._waiting: list[Watch] = []
        self._lock = Lock()

    def submit(self, request: Request) -> Job:
        """Add a request to the queue. Raises InputError if too many are waiting."""
        reports: SimpleQueue[Progress] = SimpleQueue()
        cancelled = Event()
        watch = Watch(request, reports.put, cancelled)
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                raise InputError(f"{MAX_WAITING} requests are waiting: try again later")
            self._waiting.append(watch)
            watch.report(Progress(WAITING, place=len(self._waiting)))
        future = self._pool.submit(self._run, request, watch)
        future.add_done_callback(lambda _: self._stop_waiting(watch))  # cancelled before it began
        return Job(future, reports, cancelled)

    def _stop_waiting(self, watch: Watch) -> None:
        """Remove a request from the queue, and report their new places to those behind it."""
        with self._lock:
            if watch not in self._waiting:
                return
            left = self._waiting.index(watch)
            del self._waiting[left]
            for place, behind in enumerate(self._waiting[left:], left + 1):
                behind.report(Progress(WAITING, place=place))

    def _run(self, request: Request, watch: Watch) -> Path:
        pipeline = self._free.get()
        self._stop_waiting(watch)
        try:
            if watch.cancelled.is_set():
                raise CancelledError
            watch.report(Progress())
            on_step_end: Any = watch.on_step_end
            return synthesize(request, Loaded(pipeline, watch.on_rendered, on_step_end)).folder
        finally:
            self._free.put(pipeline)
