"""The page's settings as a request, and the command line that makes the same images."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.requests import (
    DRAGGED,
    FOLDED,
    FOLLOWED,
    PRESET,
    SHOWN,
    START,
    Cameras,
    Fixed,
    command_line,
    lora_texts,
    make_request,
    offered_presets,
    optional_number,
    optional_whole,
    preset_values,
    request_of,
)
from core.errors import InputError
from lightning_modules.sampling.presets import read_presets
from lightning_modules.sampling.requests import Request
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.trajectories import trajectory
from lightning_modules.synthesize import parse_request
from portraits.camera_files import read_cameras
from portraits.cameras import angles

FIXED = Fixed("models/a b", precision="bfloat16")


def parsed(line: str) -> Request:
    """The request that `synthesize` reads from a command line."""
    words = shlex.split(line)
    assert words[:2] == ["diffportrait3d", "synthesize"]
    return parse_request(words[2:])


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 20, "guidance": 2.5, "strength": 0.6, "seed": 7},
        {"noise": "random", "eta": 0.5, "identity": 3, "window": 4, "overlap": 1, "fps": 8.0},
        {"prompt": "a king, 'old'", "lora": ["my style.safetensors:0.5", "b.safetensors"]},
        {"prompt": "-- not a flag", "solver": "unipc", "spacing": "trailing", "one_batch": True},
        {"guidance_low": 100, "guidance_high": 800, "deep_every": 2, "decoder": "preview"},
    ],
)
@pytest.mark.parametrize(
    "cameras", [{"trajectory": "spiral", "views": 4, "yaw": -20.5}, {"cameras": ["it's.json"]}]
)
def test_command_line_round_trips(align, settings, cameras):
    request = make_request(FIXED, ["my photo.jpg", "-odd.png"][:1], align, cameras, settings, Path("out"))
    assert parsed(command_line(request)) == request
    assert (request.align, request.precision, request.model) == (align, "bfloat16", "models/a b")


def test_request_is_restored_from_its_settings():
    request = make_request(FIXED, ["a.jpg"], True, {"views": 4}, {"seed": 3}, Path("out"))
    stored = json.loads(json.dumps({"command": "x", "image_size": 64, **vars(request)}))
    assert request_of(stored) == request


def test_controls_and_presets_are_fields_of_the_request():
    names = set(Request.__dataclass_fields__)
    assert {*SHOWN, *FOLDED} <= names
    assert set(PRESET) <= {*SHOWN, *FOLDED}
    for name, values in read_presets().items():
        assert preset_values(name) == {x: values.get(x, getattr(Sampling(), x)) for x in PRESET}
        assert values.keys() <= set(PRESET)
    assert START in offered_presets([])


def test_lcm_is_offered_with_loras():
    assert "lcm" not in offered_presets([])
    assert "lcm" in offered_presets([Path("lcm.safetensors")])
    assert lora_texts(["a.safetensors", "b.safetensors"], 0.75) == [
        "a.safetensors:0.75",
        "b.safetensors:0.75",
    ]
    assert lora_texts(["a.safetensors"], 1.0) == ["a.safetensors"]
    assert lora_texts([], 0.75) is None


def test_dragged_cameras_are_written_as_labels(tmp_path):
    dragged = [(30.0, -10.0), (-90.0, 45.0)]
    options = Cameras(DRAGGED, dragged=dragged).options(tmp_path)
    labels = read_cameras([Path(path) for path in options["cameras"]])
    np.testing.assert_allclose(np.degrees(angles(labels)), dragged, atol=1e-4)


def test_trajectory_and_photos_become_options_of_synthesize(tmp_path):
    options = Cameras(trajectory="yaw_sweep", views=3, yaw=25.0).options(tmp_path)
    assert set(options) == {"trajectory", "views", "yaw", "pitch"}
    assert trajectory(**{"name": options.pop("trajectory"), **options}).shape == (3, 25)
    followed = Cameras(FOLLOWED, photos=[tmp_path / "a.jpg"]).options(tmp_path)
    assert followed == {"cameras": [str(tmp_path / "a.jpg")]}


@pytest.mark.parametrize("mode", [DRAGGED, FOLLOWED])
def test_missing_cameras_are_input_errors(mode, tmp_path):
    with pytest.raises(InputError, match=r"drag the head|drop one"):
        Cameras(mode).options(tmp_path)


def test_values_out_of_range_are_refused_as_on_the_command_line(tmp_path):
    with pytest.raises(InputError, match="strength 2: give more than 0"):
        make_request(FIXED, ["a.jpg"], True, {}, {"strength": 2.0}, tmp_path)
    request = make_request(FIXED, ["a.jpg"], True, {}, {"overlap": None}, tmp_path)
    assert request.overlap is None
    assert replace(request, seed=1) != request


def test_optional_fields_may_be_empty():
    assert (optional_number("yaw", " "), optional_number("yaw", "-20.5")) == (None, -20.5)
    assert (optional_whole("overlap", ""), optional_whole("overlap", "0")) == (None, 0)
    for read, text in ((optional_number, "wide"), (optional_whole, "2.5"), (optional_whole, "nan")):
        with pytest.raises(InputError, match="or leave it empty"):
            read("overlap", text)
