"""Checks of the page's options before a model is loaded."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from app import serve
from app.serve import LOCAL, Options, check
from core.errors import InputError

MINI = Path(__file__).parents[2] / "checkpoints/mini"


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind((LOCAL, 0))
        return listener.getsockname()[1]


@pytest.fixture
def options(free_port):
    return Options(str(MINI), port=free_port)


@pytest.fixture
def configs(tmp_path):
    """The shipped model without its weights."""
    return Path(shutil.copytree(MINI, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture(autouse=True)
def gradio_is_installed(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda _: object())


def test_page_is_served_to_this_machine_by_default():
    assert Options("model").host == "127.0.0.1"


def test_model_is_checked_without_its_weights(options, configs):
    assert check(replace(options, model=str(configs))).has_view_control


def test_model_without_view_control_is_refused(options, configs):
    shutil.rmtree(configs / "view_control")
    with pytest.raises(InputError, match=r"no view_control/ \(F_cam\)"):
        check(replace(options, model=str(configs)))


def test_port_in_use_is_refused(options):
    with (
        socket.create_server((LOCAL, options.port)),
        pytest.raises(InputError, match="in use; choose another"),
    ):
        check(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": 123456}, "--port 123456"),
        ({"host": "256.0.0.1"}, "on 256.0.0.1"),
        ({"conditions": "a_folder"}, "--conditions a_folder: the page takes a renderer"),
        ({"conditions": "eg3d:nowhere"}, "nowhere"),
        ({"precision": "float16"}, "--precision float16"),
        ({"devices": 0}, "--devices 0"),
        ({"device": "mps"}, "--device mps: PyTorch"),
        ({"model": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_invalid_options_are_input_errors(options, change, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        check(replace(options, **change))


def test_missing_gradio_is_an_input_error(options, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install -e '.\[app\]'"):
        check(options)
