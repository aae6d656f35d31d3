"""What `synthesize` refuses, in one line and before a model is loaded."""

import json
import runpy
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from core.model_folders import save_model
from lightning_modules import synthesize as command
from lightning_modules.networks.portrait import NOISE_PRIOR
from lightning_modules.sampling.trajectories import trajectory
from tests.lightning_modules.synthesize.folders import SIZE, squares
from tests.networks.toy import toy_prior

BAD = {
    "no such model": (["--model", "nowhere"], "nowhere: no such folder, and not a hub id"),
    "steps": (["--steps", "0"], "steps 0: give a whole number, 1 or more"),
    "too many steps": (["--steps", "501"], "501 sampling steps: give 1 to 500"),
    "eta": (["--eta", "1.5"], "eta 1.5: give 0 to 1"),
    "window": (["--window", "0"], "window 0: give a whole number"),
    "overlap": (["--overlap", "-1"], "overlap -1: give a whole number"),
    "a window beyond V": (["--window", "40", "--views", "40"], "40 views"),
    "fps": (["--fps", "0"], "--fps 0: give 0.1 or more"),
    "views": (["--views", "0"], "--views 0: give 1 to 10000"),
    "many views": (["--views", "1000000000000000000000"], "--views 1000000000000000000000: give 1 to 10000"),
    "path": (["--trajectory", "circle"], "no such path; choose from orbit"),
    "cameras twice": (["--cameras", "a.json", "--views", "2"], "leave out --views"),
    "no cameras file": (["--cameras", "none.json"], "none.json: there is no such file of cameras"),
    "renderer": (["--conditions", "nobody"], "--conditions nobody: there is no such folder"),
    "noise": (["--noise", "pink"], "--noise pink: neither random, nor 3d-aware, nor a folder"),
    "device": (["--device", "mps"], "--device mps: PyTorch"),
    "devices": (["--devices", "0"], "--devices 0: give 1 or more"),
    "half precision": (["--precision", "float16"], "--precision float16 needs a GPU"),
    "both": (["--portraits", "."], "either --portrait PHOTO… of one person, or --portraits FOLDER"),
    "a face where none is": (["--align", "true"], "ada.jpg: no face is found .* --align false"),
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(("arguments", "line"), BAD.values(), ids=BAD)
def test_invalid_arguments_are_input_errors_before_loading(run, tmp_path, arguments, line):
    with pytest.raises(InputError, match=line):
        run(*arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


@pytest.mark.usefixtures("no_model")
def test_uncreatable_output_folder_fails_before_loading(run, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="file/out: the folder cannot be created"):
        run(out="file/out")


def test_count_mismatches_are_input_errors(run, tmp_path):
    few = str(squares(tmp_path / "few", 2))
    with pytest.raises(InputError, match="holds 2 conditions for 3 cameras: give one for each"):
        run("--conditions", few, "--views", "3")
    with pytest.raises(InputError, match="holds 2 proxies for 3 cameras"):
        run("--noise", few, "--views", "3")
    with pytest.raises(InputError, match="3d-aware needs cameras"):
        run("--conditions", few, "--noise", "3d-aware")


def row(changes=()):
    """An EG3D label as a list, with (index, value) `changes`."""
    numbers = trajectory("orbit", 1)[0].tolist()
    for place, value in changes:
        numbers[place] = value
    return numbers


CAMERA_FILES = {
    "ragged": ("c.json", [row(), row()[:24]], "camera 1 has 24 numbers; EG3D labels have 25"),
    "too long": ("c.json", [[*row(), 0.0]], "camera 0 has 26 numbers"),
    "flat": ("c.json", [*row(), *row()], "camera 0 is not a list|has 50 numbers"),
    "a shape": ("c.npy", np.zeros((3, 16)), "camera 0 has 16 numbers; EG3D labels have 25"),
    "a cube": ("c.npy", np.zeros((2, 4, 4)), r"no array of numbers \(K, 25\), but float64 \(2, 4, 4\)"),
    "ragged array": ("c.npy", np.array([row(), row()[:24]], dtype=object), "cannot be read as an array"),
    "scaled": ("c.json", [row(), row([(0, 2.0)])], "camera 1 is not a rigid cam2world"),
    "mirrored": ("c.npy", np.array([row([(i, -row()[i]) for i in (0, 4, 8)])]), "camera 0 is not a rigid"),
    "not finite": ("c.npy", np.array([row([(3, np.nan)])]), "camera 0 has a number that is not finite"),
}


@pytest.mark.parametrize(("name", "content", "line"), CAMERA_FILES.values(), ids=CAMERA_FILES)
def test_invalid_camera_files_are_input_errors(run, tmp_path, name, content, line):
    path = tmp_path / name
    path.write_text(json.dumps(content)) if name.endswith(".json") else np.save(path, content)
    with pytest.raises(InputError, match=rf"{name}: .*{line}"):
        run("--cameras", str(path))
    assert not (tmp_path / "out").exists()


def test_unusable_portraits_are_input_errors(run, photos, tmp_path):
    whole = (photos / "ada.jpg").read_bytes()
    (photos / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.jpg").write_bytes(b"")
    Image.open(photos / "ada.jpg").resize((20, 20)).save(photos / "tiny.png")
    Image.new("RGB", (64, 64), "grey").save(photos / "blank.png")
    lines = {
        "broken.jpg": "cannot be read as a photo",
        "empty.jpg": "cannot be read as a photo",
        "tiny.png": "20x20 pixels are too few for a portrait",
        "blank.png": "the image is empty",
    }
    for name, line in lines.items():
        with pytest.raises(InputError, match=f"{name}: .*{line}"):
            run("--views", "1", portrait=("--portrait", name))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["conditions", "Settings.json"])
def test_person_cannot_have_the_name_of_an_output(run, photos, tmp_path, name):
    (photos / "bo.png").rename(photos / f"{name}.png")
    with pytest.raises(InputError, match=f"a person cannot be called {name}, the name of an output"):
        run("--views", "1", portrait=("--portraits", ""))
    assert not (tmp_path / "out").exists()
    assert run("--views", "1", portrait=("--portrait", f"{name}.png")).is_dir()


@pytest.mark.usefixtures("no_model")
def test_noise_prior_of_another_size_is_an_input_error(run, models, tmp_path):
    shutil.copytree(models / "whole", tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / NOISE_PRIOR)
    save_model(toy_prior(), tmp_path / "mixed" / NOISE_PRIOR)
    with pytest.raises(InputError, match=f"S generates images of 16 pixels, but F needs {SIZE}"):
        run("--model", str(tmp_path / "mixed"))


@pytest.mark.usefixtures("no_model")
def test_model_without_f_cam_is_an_input_error(run, models):
    with pytest.raises(InputError, match=r"stage1: it has no view_control/ \(F_cam\)"):
        run("--model", str(models / "stage1"))


def test_local_and_cluster_options_exclude_each_other(run, monkeypatch):
    monkeypatch.setattr("core.engine.find_spec", lambda _: "installed")
    with pytest.raises(InputError, match="--device and --devices are for this machine"):
        run("--devices", "2", "--engine", "ray")
    with pytest.raises(InputError, match="--workers applies to workers of a cluster"):
        run("--workers", "2")


def test_command_prints_one_line_on_errors(photos, monkeypatch, capsys):
    given = ["--model", "nowhere", "--portrait", str(photos / "none.jpg"), "--out", str(photos / "out")]
    monkeypatch.setattr(sys, "argv", ["synthesize", *given])
    monkeypatch.delitem(sys.modules, command.__name__)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(command.__name__, run_name="__main__")
    assert end.value.code == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"error: --portrait {photos / 'none.jpg'}: there is no such file or folder"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--views", "1", "--export", '["colmap"]'), "--export: 1 view; 2 or more are needed"),
        (("--views", "2", "--export", '["splat"]'), "2 views are too few for 3D Gaussians"),
        (("--views", "2", "--export", "[]"), "--export: no format is given"),
    ],
)
def test_invalid_exports_are_refused_before_sampling(run, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        run(*arguments)
    assert not (tmp_path / "out").exists()
