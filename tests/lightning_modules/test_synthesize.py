"""The `synthesize` command end to end on a toy model of 32×32 pixels, and its errors."""

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import IncompleteError, InputError
from core.model_folders import save_model
from lightning_modules import synthesize as command
from lightning_modules.networks.portrait import NOISE_PRIOR, PortraitModel, save_portrait_model
from lightning_modules.sampling import synthesis, view_conditions
from lightning_modules.sampling.devices import group_devices
from lightning_modules.sampling.plan import starting_noise
from lightning_modules.sampling.trajectories import trajectory
from portraits.camera_files import read_cameras
from tests.engines import REASON, GivesUp
from tests.faces import FlatRenderer
from tests.networks.toy import toy_model, toy_prior

SIZE = 32
FAST = ["--steps", "1", "--window", "2", "--overlap", "1", "--align", "false"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a whole model (`whole`) and of one that ends with stage 1 (`stage1`)."""
    folder = tmp_path_factory.mktemp("models")
    prior = toy_prior(image_size=SIZE, encoder_channels=(8,) * 5, rendering_size=16)
    whole = replace(toy_model(), noise_prior=prior)
    whole.backbone.unet.register_to_config(sample_size=SIZE // whole.backbone.downsampling)
    save_portrait_model(whole, str(folder / "whole"))
    early = PortraitModel(whole.backbone, whole.reference, reference_timestep="zero")
    save_portrait_model(early, str(folder / "stage1"))
    return folder


@pytest.fixture(autouse=True)
def flat_renderer(monkeypatch):
    monkeypatch.setattr(view_conditions, "open_renderer", lambda _: FlatRenderer())


@pytest.fixture
def photos(tmp_path):
    """A folder of people: ada and bo with one photo each, cleo with two."""
    draw = np.random.default_rng(0)
    for name in ("ada.jpg", "bo.png", "cleo/1.png", "cleo/2.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def run(models, photos, tmp_path):
    """A function that runs the command, on ada's portrait by default, and returns its output folder."""

    def run_with(*arguments, out="out", portrait=("--portrait", "ada.jpg")):
        flag, *names = portrait
        given = [flag, *(str(photos / name) for name in names)]
        folder = tmp_path / out
        command.main(["--model", str(models / "whole"), *given, "--out", str(folder), *FAST, *arguments])
        return folder

    return run_with


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def views(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "views").iterdir())])


def squares(folder: Path, count: int, side: int = SIZE) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (side, side), (40 * number, 90, 90)).save(folder / f"{number}.png")
    return folder


def test_output_files_of_one_person(run):
    out = run("--trajectory", "spiral", "--views", "3", "--seed", "5", "--steps", "2")
    numbered = {f"{folder}/{i:03d}.png" for folder in ("views", "conditions") for i in range(3)}
    single = {"portrait_0.png", "views.mp4", "sheet.png", "cameras.json", "settings.json"}
    assert files(out) == numbered | single
    assert views(out).shape == (3, SIZE, SIZE, 3)
    np.testing.assert_array_equal(read_cameras([out / "cameras.json"]), trajectory("spiral", 3))
    assert cv2.VideoCapture(str(out / "views.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert Image.open(out / "portrait_0.png").size == (SIZE, SIZE)
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["steps"], settings["seed"], settings["starting_noise"]) == (2, 5, "3d-aware")
    assert not list(out.parent.glob("*.partial"))


def test_views_depend_on_the_seed_and_not_on_chunks(run):
    first = views(run("--views", "3")).astype(int)
    chunked = views(run("--views", "3", "--chunk", "1", out="chunked"))
    assert np.abs(first - chunked).max() <= 1  # sums are rounded in another order
    assert np.abs(first - views(run("--views", "3", "--seed", "1", out="other"))).max() > 1


def test_folder_of_people_matches_single_runs(run):
    everybody = run("--views", "2", out="all", portrait=("--portraits", ""))
    assert {path.name for path in everybody.iterdir() if path.is_dir()} == {"ada", "bo", "cleo", "conditions"}
    assert len(files(everybody / "cleo")) == 2 + 2 + 2  # portraits, views, video and sheet
    alone = run("--views", "2", out="cleo", portrait=("--portrait", "cleo/1.png", "cleo/2.png"))
    np.testing.assert_array_equal(views(everybody / "cleo"), views(alone))


def test_cameras_and_conditions_of_a_run_reproduce_it(run):
    first = run("--views", "3", "--noise", "3d-aware")
    reused = ["--cameras", str(first / "cameras.json"), "--conditions", str(first / "conditions")]
    np.testing.assert_array_equal(views(first), views(run(*reused, out="again")))
    settings = json.loads((first / "settings.json").read_text())
    assert settings["command"] == "lightning_modules.synthesize"


def test_conditions_without_cameras_start_from_random_noise(run, tmp_path, caplog):
    out = run("--conditions", str(squares(tmp_path / "seen", 4, 20)))
    assert len(views(out)) == 4
    assert "cameras.json" not in files(out)
    assert json.loads((out / "settings.json").read_text())["starting_noise"] == "random"
    assert "the views start from random noise" in caplog.text
    caplog.clear()
    assert starting_noise("random", proxies=False, cameras=False, prior=True) == "random"
    assert starting_noise(None, proxies=False, cameras=True, prior=True) == "3d-aware"
    assert caplog.text == ""


def test_kinds_of_noise_differ(run, tmp_path):
    proxies = str(squares(tmp_path / "proxies", 2))
    made = [views(run("--views", "2", "--noise", noise, out=f"out{number}"))
            for number, noise in enumerate(("random", "3d-aware", proxies))]  # fmt: skip
    assert all((made[one] != made[other]).any() for one, other in ((0, 1), (0, 2), (1, 2)))


def test_proxies_of_several_people_are_read_from_subfolders(run, tmp_path):
    for name in ("ada", "bo", "cleo"):
        squares(tmp_path / "proxies" / name, 2)
    out = run("--views", "2", "--noise", str(tmp_path / "proxies"), portrait=("--portraits", ""))
    assert len(views(out / "bo")) == 2


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


BAD = {
    "no such model": (["--model", "nowhere"], "nowhere has no appearance_reference/"),
    "steps": (["--steps", "0"], "steps 0: give a whole number, 1 or more"),
    "too many steps": (["--steps", "501"], "501 sampling steps: give 1 to 500"),
    "eta": (["--eta", "1.5"], "eta 1.5: give 0 to 1"),
    "window": (["--window", "0"], "window 0: give a whole number"),
    "overlap": (["--overlap", "-1"], "overlap -1: give a whole number"),
    "a window beyond V": (["--window", "40", "--views", "40"], "40 views"),
    "fps": (["--fps", "0"], "--fps 0: give 0.1 or more"),
    "views": (["--views", "0"], "--views 0: give 1 or more"),
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


@pytest.fixture
def no_model(monkeypatch):
    """Fail the test if a model is loaded; the machine has no Apple GPU."""
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr(synthesis, "open_pipeline", lambda *_: pytest.fail("a model was loaded"))


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


def test_bad_photos_in_a_folder_are_skipped_and_reported(run, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no photo")
    (photos / "cleo" / "0.png").write_bytes(b"no photo")
    with pytest.raises(IncompleteError, match=r"^2 photos could not be used: .*broken\.jpg.*; .*0\.png"):
        run("--views", "1", portrait=("--portraits", ""))
    people = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert people == {"ada", "bo", "cleo", "conditions"}
    assert len(list((tmp_path / "out" / "cleo").glob("portrait_*.png"))) == 2


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


@pytest.mark.usefixtures("no_model")
def test_model_without_f_cam_is_an_input_error(run, models):
    with pytest.raises(InputError, match=r"stage1: it has no view_control/ \(F_cam\)"):
        run("--model", str(models / "stage1"))


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


def test_interrupted_request_on_a_cluster_is_resumed(run, photos, tmp_path, monkeypatch):
    everybody = ("--portraits", "")
    here = run("--views", "2", out="out", portrait=everybody)
    shutil.move(here, tmp_path / "here")
    on_a_cluster(monkeypatch)
    write, written = synthesis.write_views, []

    def failing(folder, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(folder)
        write(folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(synthesis, "write_views", failing)
        with pytest.raises(KeyboardInterrupt):
            run("--views", "2", portrait=everybody)
    with pytest.raises(InputError, match="is of an interrupted run with other settings"):
        run("--views", "1", portrait=everybody)
    written.clear()
    monkeypatch.setattr(synthesis, "write_views", lambda folder, *rest: written.append(write(folder, *rest)))
    out = run("--views", "2", portrait=everybody)
    assert len(written) == 1
    assert files(out) == files(tmp_path / "here")
    for name in files(out):
        assert (out / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    other = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(other).save(photos / "bo.png")
    again = run("--views", "2", "--overwrite", portrait=everybody)
    assert len(written) == 1 + 3
    assert (again / "bo/views/000.png").read_bytes() != (tmp_path / "here/bo/views/000.png").read_bytes()


def test_local_and_cluster_options_exclude_each_other(run, monkeypatch):
    monkeypatch.setattr("core.engine.find_spec", lambda _: "installed")
    with pytest.raises(InputError, match="--device and --devices are local"):
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


@pytest.mark.slow
def test_people_split_over_processes_get_equal_views(run):
    one = run("--views", "2", out="one", portrait=("--portraits", ""))
    two = run("--views", "2", "--devices", "2", out="two", portrait=("--portraits", ""))
    for name in ("ada", "bo", "cleo"):
        np.testing.assert_array_equal(views(one / name), views(two / name))
    assert files(one) == files(two)


def test_export_writes_cameras_and_images(run):
    folder = run("--views", "2", "--export", '["colmap", "gltf"]')
    assert {"export/sparse/images.txt", "export/cameras.gltf", "export/images/001.png"} <= files(folder)
    exported, made = Image.open(folder / "export/images/001.png"), Image.open(folder / "views/001.png")
    assert np.array_equal(np.asarray(exported), np.asarray(made))


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
