"""What all tests share."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import fsspec
import pytest


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let SIGINT and SIGHUP end processes: a shell that starts the tests in the background has them, and what
    they start, ignore the first, and `nohup` the second."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's object store in memory, empty before and after."""
    memory = fsspec.filesystem("memory")
    assert not memory.store
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@dataclass
class Uploads:
    """The paths of the files that a store has got, in order; after `room` files it raises an error."""

    paths: list[str] = field(default_factory=list)
    room: int = 1000
    error: Exception = field(default_factory=ConnectionResetError)


@pytest.fixture
def uploads(store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    """What the store in memory gets, one file at a time."""
    recorded, put = Uploads(), type(store).put_file

    def put_file(self: object, local: str, remote: str, **options: object) -> None:
        if len(recorded.paths) == recorded.room:
            raise recorded.error
        recorded.paths.append(remote)
        put(self, local, remote, **options)

    monkeypatch.setattr(type(store), "put_file", put_file)
    monkeypatch.setattr("core.destination.BATCH_FILES", 1)
    return recorded
