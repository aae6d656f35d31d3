"""Results that are moved to a URL, on fsspec's stores in memory and on disk."""

import aiohttp
import fsspec
import pytest

from core.destination import Destination
from core.errors import InputError
from core.files import exclusive

RECIPE = {"steps": 3}
FILES = {"views/000.png": b"first", "views/001.png": b"second", "z.csv": b"", "settings.json": b"[1]"}
LAST = "settings.json"
URL = "memory://bucket/views"


@pytest.fixture
def destination(tmp_path):
    return Destination.of(URL, str(tmp_path / "work"))


def finish(destination, files=FILES, recipe=RECIPE):
    """Write a finished folder, as a command does."""
    for name, content in files.items():
        path = destination.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    destination.label(destination.folder, recipe)


def contents(store, root="/bucket/views"):
    """The files below a folder of the store, by name."""
    return {name.removeprefix(f"{root}/"): store.cat_file(name) for name in store.find(root)}


def test_folder_is_moved_with_its_last_file_at_the_end(store, destination, uploads):
    finish(destination)
    (destination.folder / ".table.lock").touch()
    (destination.folder / "views" / ".000.png.01234567.partial").write_bytes(b"half")
    assert destination.is_finished(RECIPE)
    destination.deliver(LAST)
    assert contents(store) == FILES
    assert uploads.paths[-1] == f"/bucket/views/{LAST}"
    assert list(destination.folder.parent.iterdir()) == []
    assert not destination.is_finished(RECIPE)
    with pytest.raises(InputError, match=f"{URL} exists already: choose another --out, or remove it"):
        destination.check_vacant()


def test_last_file_is_sent_by_itself(store, destination, monkeypatch):
    batches, put = [], type(store).put

    def put_batch(self, local, remote):
        batches.append(len(remote))
        put(self, local, remote)

    monkeypatch.setattr(type(store), "put", put_batch)
    finish(destination)
    destination.deliver(LAST)
    assert batches == [3, 1]
    assert contents(store) == FILES


def test_interrupted_delivery_sends_the_rest(store, destination, uploads):
    finish(destination)
    uploads.room = 2
    with pytest.raises(InputError, match=f"^{URL}: cannot be written \\(ConnectionResetError\\)$"):
        destination.deliver(LAST)
    assert LAST not in contents(store)
    assert destination.is_vacant()
    (destination.folder / "views/000.png").write_bytes(b"other")  # of as many bytes
    uploads.paths.clear()
    uploads.room = 1000
    destination.deliver(LAST)
    assert uploads.paths == [f"/bucket/views/{name}" for name in ("views/000.png", "z.csv", LAST)]
    assert contents(store) == FILES | {"views/000.png": b"other"}


def test_record_continues_after_a_line_that_was_cut_off(store, destination, uploads):
    finish(destination)
    record = destination.folder / ".sent"
    with record.open("a") as file:
        file.write('["beg')
    uploads.room = 3  # all but the last
    with pytest.raises(InputError, match="cannot be written"):
        destination.deliver(LAST)
    assert destination.is_vacant()
    uploads.paths.clear()
    uploads.room = 1000
    destination.deliver(LAST)
    assert uploads.paths == [f"/bucket/views/{LAST}"]
    assert contents(store) == FILES


def test_folder_of_another_recipe_is_not_delivered(destination):
    assert not destination.is_finished(RECIPE)
    finish(destination)
    with pytest.raises(InputError, match="views is of other settings: remove it, or choose another"):
        destination.is_finished({"steps": 4})
    (destination.folder / ".sent").unlink()
    with pytest.raises(InputError, match="views is of other settings"):
        destination.is_finished(RECIPE)


def test_delivery_to_another_url_sends_all_files(store, destination, uploads):
    finish(destination)
    uploads.room = 2
    with pytest.raises(InputError, match="cannot be written"):
        destination.deliver(LAST)
    uploads.room = 1000
    Destination(destination.folder, "memory://elsewhere/views").deliver(LAST)
    assert contents(store, "/elsewhere/views") == FILES


def test_files_of_others_are_never_mixed_with_results(store, destination):
    store.pipe_file("/bucket/views/thesis.txt", b"years")
    with pytest.raises(InputError, match="exists already"):
        destination.check_vacant()
    finish(destination)
    for _ in range(2):
        with pytest.raises(InputError, match="exists already"):
            destination.deliver(LAST)
        destination.folder.joinpath(".sent").unlink(missing_ok=True)  # as of a folder that is never labelled
    assert contents(store) == {"thesis.txt": b"years"}


def test_overwriting_removes_what_was_there(store, destination, uploads):
    finish(destination, FILES | {"views/002.png": b"third"})
    destination.deliver(LAST)
    finish(destination)
    uploads.paths.clear()
    uploads.room = 1
    with pytest.raises(InputError, match="cannot be written"):
        destination.deliver(LAST, overwrite=True)
    assert contents(store) == {"views/000.png": b"first"}
    uploads.room = 1000
    destination.deliver(LAST, overwrite=True)
    assert contents(store) == FILES


def test_truncated_file_is_an_error(store, destination, monkeypatch):
    monkeypatch.setattr(type(store), "put_file", lambda self, _, remote, **__: self.pipe_file(remote, b"cut"))
    finish(destination)
    with pytest.raises(InputError, match=r"views/000\.png: 3 bytes arrived, not 5: run the command again"):
        destination.deliver(LAST)
    assert destination.folder.is_dir()


@pytest.mark.parametrize("error", [PermissionError("Access Denied"), aiohttp.ServerDisconnectedError()])
def test_errors_of_stores_are_one_line(destination, uploads, error):
    uploads.room, uploads.error = 0, error
    finish(destination)
    with pytest.raises(InputError, match=r"memory://bucket/views: cannot be written \((Access|Server)"):
        destination.deliver(LAST)


def test_folders_of_files_work_too(tmp_path):
    destination = Destination.of(f"file://{tmp_path}/store/views/", str(tmp_path / "work"))
    assert destination.folder == tmp_path / "work/views"
    finish(destination)
    destination.deliver(LAST)
    store = fsspec.filesystem("file")
    assert contents(store, f"{tmp_path}/store/views") == FILES


def test_folder_is_delivered_by_one_process(destination):
    finish(destination)
    with exclusive(destination.folder), pytest.raises(InputError, match="another process is writing it"):
        destination.deliver(LAST)


def test_file_at_the_url_is_fetched(store, destination, tmp_path):
    store.pipe_file("/bucket/views/settings.json", b"[1]")
    assert destination.fetch(tmp_path / "settings.json")
    assert (tmp_path / "settings.json").read_bytes() == b"[1]"
    assert not destination.fetch(tmp_path / "other.json")
    assert not destination.fetch(tmp_path / "settings.json", max_bytes=2)


def test_folder_without_a_url_stays(tmp_path):
    destination = Destination.of(str(tmp_path / "out"), None)
    finish(destination)
    destination.check_vacant()
    assert not destination.is_finished(RECIPE)
    destination.deliver(LAST)
    assert {path.name for path in destination.folder.iterdir()} == {"views", "z.csv", LAST}


@pytest.mark.parametrize(
    ("out", "staging", "message"),
    [
        ("memory://bucket/views", None, "--staging DIR and a URL as --out go together"),
        ("out", "work", "--staging DIR and a URL as --out go together"),
        ("s3://", "work", "--out s3://: name a folder in the store"),
    ],
)
def test_invalid_destinations_are_input_errors(out, staging, message):
    with pytest.raises(InputError, match=message):
        Destination.of(out, staging)


@pytest.mark.parametrize("url", ["nowhere://bucket/views", "abfs://container/views"])
def test_missing_packages_are_one_line(url, tmp_path):
    with pytest.raises(InputError, match=rf"^{url}: cannot be read \(.*(not known|[Ii]nstall)"):
        Destination.of(url, str(tmp_path)).check_vacant()
