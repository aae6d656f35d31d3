"""The files and views that `synthesize` writes."""

import json

import cv2
import numpy as np
from PIL import Image

from lightning_modules.sampling.plan import starting_noise
from lightning_modules.sampling.trajectories import trajectory
from portraits.camera_files import read_cameras
from tests.lightning_modules.synthesize.folders import SIZE, files, squares, views


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


def test_export_writes_cameras_and_images(run):
    folder = run("--views", "2", "--export", '["colmap", "gltf"]')
    assert {"export/sparse/images.txt", "export/cameras.gltf", "export/images/001.png"} <= files(folder)
    exported, made = Image.open(folder / "export/images/001.png"), Image.open(folder / "views/001.png")
    assert np.array_equal(np.asarray(exported), np.asarray(made))
