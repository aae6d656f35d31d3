"""Remote shards are fetched into a bounded cache, verified, and streamed like local ones."""

import functools
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from core.errors import InputError
from datamodules import PortraitViewsDataModule, SourceConfig
from shards import fetch as fetching
from shards.catalog import Catalog
from shards.fetch import ShardCache

Make = Callable[..., PortraitViewsDataModule]


class Handler(SimpleHTTPRequestHandler):
    """Serves files without logging; manifests below /status/STATUS/ are answered with that HTTP status."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """Send a file or the status in the path."""
        parts = self.path.split("/")
        if parts[1] != "status":
            super().do_GET()
        elif parts[-1] == "manifest.json":
            self.send_error(int(parts[2]))
        else:
            self.path = "/small/" + parts[-1]
            super().do_GET()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry failed transfers without waiting."""
    monkeypatch.setattr(fetching, "RETRY_SECONDS", (0.0, 0.0))


@pytest.fixture(scope="module")
def server(built: Path) -> Iterator[str]:
    """The address that serves the built folders."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(built)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_address[1]}"
    http.shutdown()
    http.server_close()


def keys(data: PortraitViewsDataModule) -> list[list[str]]:
    data.setup("fit")
    return [batch["key"] for batch in itertools.islice(data.train_dataloader(), 8)]


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_folder_streams_like_a_local_one(make: Make, built: Path, server: str, workers: int) -> None:
    local = make(sources={"it": SourceConfig(str(built / "small"))})
    remote = make(sources={"it": SourceConfig(f"{server}/small/")}, num_workers=workers)
    assert keys(remote) == keys(local)


def test_all_url_syntaxes_give_the_same_stream(make: Make, built: Path, server: str) -> None:
    folder = built / "small"
    expected = keys(make(sources={"it": SourceConfig(str(folder))}, val_frames=0))
    ways: list[str | list[str]] = [
        str(folder / "{train,val}-*.tar"),
        [str(folder / "train-00000{0..6}.tar"), str(folder / "val-000000.tar")],
        f"{folder}/train-00000{{0..3}}.tar::{folder}/train-00000{{4..6}}.tar",
        f"file://{folder}/train-00000{{0..6}}.tar",
        [f"pipe:cat {folder}/train-00000{i}.tar" for i in range(7)],
        f"{server}/small/train-00000{{0..6}}.tar",
    ]
    for urls in ways:
        assert keys(make(sources={"it": SourceConfig(urls)}, val_frames=0)) == expected


def test_macos_attribute_files_are_not_shards(make: Make, built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copied"
    folder.mkdir()
    for shard in (built / "small").glob("*.tar"):
        shutil.copy(shard, folder)
        (folder / f"._{shard.name}").write_bytes(b"\0\5\x16\7")
    expected = keys(make(sources={"it": SourceConfig(str(built / "small"))}, val_frames=0))
    for urls in (str(folder), str(folder / "*.tar")):
        assert keys(make(sources={"it": SourceConfig(urls)}, val_frames=0)) == expected


@pytest.mark.parametrize("status", [403, 500, 503])
def test_only_status_404_means_no_manifest(make: Make, server: str, status: int) -> None:
    shards = "train-00000{0..6}.tar"
    missing = make(sources={"it": SourceConfig(f"{server}/status/404/{shards}")}, val_frames=0)
    assert keys(missing) == keys(make(sources={"it": SourceConfig(f"{server}/small/{shards}")}, val_frames=0))
    for url in (f"{server}/status/{status}/{shards}", f"{server}/status/{status}/"):
        with pytest.raises(
            InputError, match=rf"/status/{status}/manifest\.json: the server answers {status} "
        ):
            keys(make(sources={"it": SourceConfig(url)}, val_frames=0))


@pytest.mark.parametrize(("failures", "status"), [(2, 503), (3, 503), (1, 403)])
def test_transient_errors_are_retried(built: Path, tmp_path: Path, failures: int, status: int) -> None:
    requests: list[str] = []

    class Loaded(Handler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if len(requests) <= failures:
                self.send_error(status)
            else:
                SimpleHTTPRequestHandler.do_GET(self)

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Loaded, directory=str(built / "small")))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{http.server_address[1]}/train-000000.tar"
    cache = ShardCache(tmp_path, 10**9)
    if (failures, status) == (2, 503):
        expected = (built / "small/train-000000.tar").read_bytes()
        assert cache.local(url).read_bytes() == expected
    else:
        with pytest.raises(InputError, match=f"the server answers {status}"):
            cache.local(url)
    assert len(requests) == (3 if status == 503 else 1)
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize("name", ["small", "missing"])
def test_url_of_a_folder_without_a_slash_is_named(
    store: fsspec.AbstractFileSystem, tmp_path: Path, name: str
) -> None:
    store.pipe_file("/bucket/small/manifest.json", b"{}")
    with pytest.raises(InputError, match=f"memory://bucket/{name}: .*; the URL of a built folder ends in /$"):
        _ = Catalog("it", f"memory://bucket/{name}", ShardCache(tmp_path, 10**9)).shards


def test_broken_transfer_leaves_no_file(tmp_path: Path) -> None:
    class Breaking(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(bytes(10))

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Breaking, directory=str(tmp_path)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    with pytest.raises(InputError, match=r"a\.tar: cannot be fetched"):
        ShardCache(tmp_path / "cache", 10**9).local(f"http://127.0.0.1:{http.server_address[1]}/a.tar")
    http.shutdown()
    http.server_close()
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize(
    "url",
    [
        "{server}/nowhere.tar",
        "{server}/nowhere/",
        "pipe:exit 3",
        "s3://bucket/a.tar",
        "http://127.0.0.1:9/a.tar",
    ],
)
def test_failed_transfers_are_input_errors(make: Make, server: str, url: str, tmp_path: Path) -> None:
    url = url.format(server=server)
    with pytest.raises(InputError) as error:
        make(sources={"it": SourceConfig(url)}).setup("fit")
    assert (url.rpartition("/")[0] or url) in str(error.value)
    assert not [path for path in (tmp_path / "cache").glob("*") if path.suffix != ".lock"]


def test_transfers_are_verified_before_caching(server: str, built: Path, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10**9)
    url = f"{server}/small/train-000000.tar"
    size = (built / "small/train-000000.tar").stat().st_size
    for expected, message in (
        ((size + 1, None), "its manifest"),
        ((size - 1, None), "larger"),
        ((size, "0" * 64), "checksum"),
    ):
        with pytest.raises(InputError, match=message):
            cache.local(url, *expected)
        assert not list(tmp_path.glob("*.tar"))
        assert not list(tmp_path.glob("*.partial"))
    assert cache.local(url, size).read_bytes() == (built / "small/train-000000.tar").read_bytes()


def test_cache_size_is_bounded(server: str, built: Path, tmp_path: Path) -> None:
    size = (built / "small/train-000000.tar").stat().st_size
    urls = [f"{server}/small/train-00000{i}.tar" for i in range(3)]
    cache = ShardCache(tmp_path, 2 * size)
    first, second = (cache.local(url, size) for url in urls[:2])
    with pytest.raises(InputError, match="full of shards in use"):
        cache.local(urls[2], size)
    os.utime(first, (0, 0))
    third = cache.local(urls[2], size)
    assert sorted(tmp_path.glob("*.tar")) == sorted([second, third])
    with pytest.raises(InputError, match="larger than"):
        ShardCache(tmp_path / "tiny", size - 1).local(urls[0])
