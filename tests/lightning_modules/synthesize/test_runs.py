"""Runs of `synthesize`: replaced results, several devices, a cluster, and people who are left out."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from core.errors import IncompleteError, InputError
from lightning_modules import synthesize as command
from lightning_modules.sampling import synthesis
from lightning_modules.sampling.devices import group_devices
from tests.engines import REASON, GivesUp
from tests.lightning_modules.synthesize.folders import files, views


class Writes:
    """Writes views, and counts for how many people; interrupted once it is `room` of them."""

    def __init__(self):
        self.write = synthesis.write_views
        self.done, self.room = 0, 1000

    def __call__(self, *arguments):
        if self.done == self.room:
            raise KeyboardInterrupt
        self.done += 1
        self.write(*arguments)


@pytest.fixture
def writes(monkeypatch):
    counted = Writes()
    monkeypatch.setattr(synthesis, "write_views", counted)
    return counted


def test_overwrite_replaces_only_own_output(run, tmp_path):
    out = run("--views", "1")
    with pytest.raises(InputError, match="it exists already; --overwrite replaces it"):
        run("--views", "2")
    assert len(views(run("--views", "2", "--overwrite"))) == 2
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="not written by this command, and not replaced"):
        run("--overwrite", out="precious")
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"
    assert len(views(out)) == 2


def test_bad_photos_in_a_folder_are_skipped_and_reported(run, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no photo")
    (photos / "cleo" / "0.png").write_bytes(b"no photo")
    with pytest.raises(IncompleteError, match=r"^2 photos could not be used: .*broken\.jpg.*; .*0\.png"):
        run("--views", "1", portrait=("--portraits", ""))
    people = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert people == {"ada", "bo", "cleo", "conditions"}
    assert len(list((tmp_path / "out" / "cleo").glob("portrait_*.png"))) == 2


def test_devices_are_grouped_by_people_and_windows():
    four = ["a", "b", "c", "d"]
    assert group_devices(four, people=9, windows=5) == [["a"], ["b"], ["c"], ["d"]]
    assert group_devices(four, people=1, windows=5) == [four]
    assert group_devices(four, people=1, windows=3) == [["a", "b", "c"]]
    assert group_devices(four, people=3, windows=5) == [["a", "d"], ["b"], ["c"]]
    assert group_devices(["a"], people=2, windows=5) == [["a"]]


def test_windows_are_split_over_devices(run, monkeypatch):
    path = ["--views", "5", "--steps", "2"]
    one = run(*path, out="one")
    opened = []

    def watched(networks, devices):
        opened.append((devices, open_pipeline(networks, devices)))
        return opened[-1][1]

    open_pipeline = synthesis.open_pipeline
    monkeypatch.setattr(synthesis, "open_pipeline", watched)
    three = run(*path, "--devices", "3", out="three")
    assert [(devices, len(pipeline.replicas)) for devices, pipeline in opened] == [(["cpu"] * 3, 2)]
    # memory alignment of the copies' weights changes the rounding
    assert np.abs(views(one).astype(int) - views(three)).max() <= 1


def on_a_cluster(monkeypatch, *bad):
    """Replace the engine of all plans by one that gives up the people with these indices."""
    plan = command.make_plan
    monkeypatch.setattr(command, "make_plan", lambda request: replace(plan(request), cluster=GivesUp(bad)))


def test_people_given_up_are_reported_and_others_written(run, tmp_path, monkeypatch):
    on_a_cluster(monkeypatch, 1)
    with pytest.raises(IncompleteError, match=f"^1 photos could not be used: bo: {REASON}; the views of all"):
        run("--views", "1", portrait=("--portraits", ""))
    people = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert people == {"ada", "cleo", "conditions"}
    on_a_cluster(monkeypatch, 0)
    with pytest.raises(InputError, match=f"nobody's views could be sampled: .: {REASON}"):
        run("--views", "1", out="alone")
    assert not (tmp_path / "alone").exists()


@pytest.mark.slow
def test_interrupted_request_on_a_cluster_is_resumed(run, photos, writes, tmp_path, monkeypatch):
    everybody = ("--portraits", "")
    here = run("--views", "2", out="out", portrait=everybody)
    shutil.move(here, tmp_path / "here")
    on_a_cluster(monkeypatch)
    writes.done, writes.room = 0, 2
    with pytest.raises(KeyboardInterrupt):
        run("--views", "2", portrait=everybody)
    with pytest.raises(InputError, match="is of an interrupted run with other settings"):
        run("--views", "1", portrait=everybody)
    writes.done, writes.room = 0, 1000
    out = run("--views", "2", portrait=everybody)
    assert writes.done == 1
    assert files(out) == files(tmp_path / "here")
    for name in files(out):
        assert (out / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    other = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(other).save(photos / "bo.png")
    again = run("--views", "2", "--overwrite", portrait=everybody)
    assert writes.done == 1 + 3
    assert (again / "bo/views/000.png").read_bytes() != (tmp_path / "here/bo/views/000.png").read_bytes()


@pytest.mark.slow
def test_people_split_over_processes_get_equal_views(run):
    one = run("--views", "2", out="one", portrait=("--portraits", ""))
    two = run("--views", "2", "--devices", "2", out="two", portrait=("--portraits", ""))
    for name in ("ada", "bo", "cleo"):
        np.testing.assert_array_equal(views(one / name), views(two / name))
    assert files(one) == files(two)


URL = "memory://bucket/views"


@pytest.fixture
def at_url(run, tmp_path):
    """A function that runs the command on all people, or with other arguments, for the URL."""

    def run_with(*arguments, portrait=("--portraits", "")):
        place = ["--out", URL, "--staging", str(tmp_path / "work")]
        run("--views", "1", *place, *arguments, portrait=portrait)

    return run_with


def stored(store):
    """The files at the URL, by name, without the settings, which have the URL in them."""
    names = [name.removeprefix("/bucket/views/") for name in store.find("/bucket/views")]
    return {name: store.cat_file(f"/bucket/views/{name}") for name in names if name != "settings.json"}


def test_views_are_moved_to_a_url(run, at_url, store, uploads, tmp_path):
    here = run("--views", "1", portrait=("--portraits", ""))
    at_url()
    assert stored(store) == {name: (here / name).read_bytes() for name in files(here) - {"settings.json"}}
    assert uploads.paths[-1] == "/bucket/views/settings.json"
    assert not any((tmp_path / "work").iterdir())


def test_interrupted_run_for_a_url_is_resumed(at_url, store, uploads, writes):
    writes.room = 2
    with pytest.raises(KeyboardInterrupt):
        at_url()
    assert not store.exists("/bucket/views")
    writes.room = 1000
    uploads.room = 2
    with pytest.raises(InputError, match=f"{URL}: cannot be written"):
        at_url()
    assert writes.done == 3
    assert not store.exists("/bucket/views/settings.json")
    with pytest.raises(InputError, match="views is of other settings: remove it"):
        at_url("--seed", "1")
    uploads.room = 1000
    at_url()
    assert writes.done == 3
    assert len(set(uploads.paths)) == len(uploads.paths)
    assert {name.split("/")[0] for name in stored(store)} >= {"ada", "bo", "cleo", "conditions"}


def test_url_is_overwritten_only_if_it_has_views(at_url, store):
    alone = ("--portrait", "ada.jpg")
    store.pipe_file("/bucket/views/thesis.txt", b"years")
    with pytest.raises(InputError, match=f"--out {URL}: it exists already; --overwrite replaces it"):
        at_url(portrait=alone)
    with pytest.raises(InputError, match="not written by this command, and not replaced"):
        at_url("--overwrite", portrait=alone)
    store.rm("/bucket/views/thesis.txt")
    at_url(portrait=alone)
    first = stored(store)
    at_url("--overwrite", "--seed", "1", portrait=alone)
    assert stored(store).keys() == first.keys()
    assert stored(store)["views/000.png"] != first["views/000.png"]


def test_people_left_out_are_named_when_only_the_upload_is_resumed(at_url, photos, store, uploads):
    (photos / "broken.jpg").write_bytes(b"no photo")
    uploads.room = 2
    with pytest.raises(InputError, match="cannot be written"):
        at_url()
    uploads.room = 1000
    with pytest.raises(IncompleteError, match=rf"^1 photos .*broken: left out.*all others are in {URL}$"):
        at_url()
    assert store.exists("/bucket/views/settings.json")


@pytest.mark.usefixtures("no_model")
def test_stores_without_a_package_are_refused_before_loading(run, tmp_path):
    with pytest.raises(InputError, match=r"^nowhere://bucket/views: cannot be read"):
        run("--out", "nowhere://bucket/views", "--staging", str(tmp_path / "work"))
    with pytest.raises(InputError, match="--staging DIR and a URL as --out go together"):
        run("--out", URL)
