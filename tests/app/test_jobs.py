"""Jobs of the page: the same images as the command, progress, cancellation, one request per device."""

import shlex
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import numpy as np
import pytest
from PIL import Image

from app.jobs import CONDITIONS, SAMPLING, WAITING, Progress, Watch, Workers, sampled_steps
from app.photos import Photo, portrait_files
from app.requests import DRAGGED, Cameras, Fixed, command_line, make_request
from core.errors import InputError
from lightning_modules import synthesize as command
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.sampling import view_conditions
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.synthesis import NetworkOptions, open_pipeline
from tests.faces import FlatRenderer
from tests.networks.toy import toy_model, toy_prior

SIZE = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The folder of a model of 32×32 pixels with all parts."""
    prior = toy_prior(image_size=SIZE, encoder_channels=(8,) * 5, rendering_size=16)
    whole = replace(toy_model(), noise_prior=prior)
    whole.backbone.unet.register_to_config(sample_size=SIZE // whole.backbone.downsampling)
    folder = tmp_path_factory.mktemp("models") / "whole"
    save_portrait_model(whole, str(folder))
    return folder


@pytest.fixture(scope="module")
def pipeline(model) -> DiffPortrait3DPipeline:
    return open_pipeline(NetworkOptions(str(model)), ["cpu"])


@pytest.fixture(autouse=True)
def may_render(monkeypatch):
    """An event that is set; rendering of conditions waits for it."""
    event = Event()
    event.set()

    class Waiting(FlatRenderer):
        def render(self, *args):
            assert event.wait(60)
            return super().render(*args)

    monkeypatch.setattr(view_conditions, "open_renderer", lambda _: Waiting())
    return event


@pytest.fixture
def request_for(model, tmp_path):
    """A function that makes a request of the page for four dragged views."""

    def make(out="out", **settings):
        values = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "person.png")
        photo = Photo(tmp_path / "person.png", Image.fromarray(values), is_crop=True)
        portrait, align = portrait_files([photo], tmp_path)
        dragged = [(-30.0, 0.0), (-10.0, 5.0), (10.0, 5.0), (30.0, -5.0)]
        cameras = Cameras(DRAGGED, dragged=dragged).options(tmp_path)
        settings = {"steps": 3, "seed": 5, "strength": 0.9} | settings
        return make_request(Fixed(str(model)), portrait, align, cameras, settings, tmp_path / out)

    return make


def views(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "views").iterdir())])


def test_copied_command_makes_identical_images(pipeline, request_for, tmp_path):
    job = Workers([pipeline]).submit(request_for(eta=0.5, window=3))
    reports = list(job.follow())
    folder = job.result()
    words = shlex.split(command_line(replace(request_for(eta=0.5, window=3), out=str(tmp_path / "again"))))
    command.main(words[2:])
    np.testing.assert_array_equal(views(folder), views(tmp_path / "again"))
    for name in ("sheet.png", "portrait_0.png", "cameras.json"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert reports[-1].done == reports[-1].total == 3


def test_progress_reports_views_steps_and_previews(pipeline, request_for):
    reports: SimpleQueue[Progress] = SimpleQueue()
    watch = Watch(request_for(), reports.put, Event())
    Workers([pipeline])._run(watch.request, watch)
    reported = [reports.get() for _ in range(reports.qsize())]
    assert [(x.stage, x.done, x.total) for x in reported[1:]] == [
        (CONDITIONS, 4, 4),
        *((SAMPLING, step, 3) for step in (1, 2, 3)),
    ]
    assert reported[-1].views == 4
    assert [image.size for image in reported[-1].previews] == [(SIZE, SIZE)] * 4
    assert reported[-1].seconds_left == 0


@pytest.mark.parametrize(("noise", "steps"), [(None, 2), ("3d-aware", 2), ("random", 4)])
def test_sampled_steps_depend_on_noise_and_strength(pipeline, request_for, noise, steps):
    assert sampled_steps(pipeline, request_for(steps=4, strength=0.5, noise=noise)) == steps


def test_cancelled_request_ends_at_the_next_step_without_output(pipeline, request_for, tmp_path):
    reports, cancelled = [], Event()

    def report(progress: Progress) -> None:
        reports.append(progress)
        if (progress.stage, progress.done) == (SAMPLING, 2):
            cancelled.set()

    workers = Workers([pipeline])
    watch = Watch(request_for(steps=6), report, cancelled)
    with pytest.raises(CancelledError):
        workers._run(watch.request, watch)
    assert (reports[-1].stage, reports[-1].done) == (SAMPLING, 2)
    assert not list(tmp_path.glob("out*"))
    after = workers.submit(request_for(steps=1))
    assert list(after.follow())
    assert (after.result() / "views.mp4").is_file()


def test_cancelled_job_is_no_longer_followed(pipeline, request_for, may_render):
    may_render.clear()
    job = Workers([pipeline]).submit(request_for())
    assert next(job.follow())
    job.cancel()
    with pytest.raises(CancelledError):
        next(job.follow())
    may_render.set()
    with pytest.raises(CancelledError):
        job.result()


def test_second_request_waits_for_the_device(pipeline, request_for, may_render):
    may_render.clear()
    workers = Workers([pipeline])
    first, second = workers.submit(request_for()), workers.submit(request_for("other"))
    third = workers.submit(request_for("another"))
    assert next(progress for progress in first.follow() if progress.stage != WAITING)
    assert not second.future.running()
    assert [next(job.follow()).place for job in (second, third)] == [1, 2]
    second.cancel()
    assert second.future.cancelled()
    assert next(third.follow()).place == 1
    third.cancel()
    first.cancel()
    may_render.set()
    with pytest.raises(CancelledError):
        first.result()


def test_input_errors_reach_the_page(pipeline, request_for):
    job = Workers([pipeline]).submit(request_for(steps=5000))
    list(job.follow())
    with pytest.raises(InputError, match="steps"):
        job.result()
