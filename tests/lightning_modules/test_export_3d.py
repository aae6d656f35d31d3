import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from core.errors import InputError
from core.model_folders import save_model
from lightning_modules.export_3d import main
from lightning_modules.networks.noise_prior import NoisePrior
from portraits.camera_files import write_cameras
from portraits.cameras import label_from_angles

SIZE, VIEWS = 16, 4


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The output of `synthesize` for one person, by a model with a toy noise prior."""
    torch.manual_seed(0)
    prior = NoisePrior(
        image_size=SIZE,
        encoder_channels=(8, 8, 8),
        code_channels=8,
        lift_side=8,
        volume_channels=(8, 8),
        attention_heads=1,
        grow_channels=(8,),
        feature_channels=4,
        field_channels=8,
        surroundings_channels=8,
        surroundings_doublings=1,
        rendering_size=8,
        decoder_channels=(8, 8),
    )
    save_model(prior, tmp_path / "model" / "noise_prior")
    folder = tmp_path / "run"
    (folder / "views").mkdir(parents=True)
    for number in range(VIEWS):
        Image.new("RGB", (SIZE, SIZE), (60 * number, 0, 0)).save(folder / "views" / f"{number:03d}.png")
    Image.new("RGB", (SIZE, SIZE), "grey").save(folder / "portrait_0.png")
    write_cameras([label_from_angles(0.4 * n - 0.6, 0.0) for n in range(VIEWS)], folder / "cameras.json")
    settings = {"image_size": SIZE, "model": str(tmp_path / "model")}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def test_all_formats_are_exported(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    formats = ["nerfstudio", "colmap", "gltf", "ply", "glb", "splat"]
    arguments = ["--out", str(tmp_path / "out"), "--format", json.dumps(formats)]
    main(
        [
            str(run_folder),
            *arguments,
            "--resolution",
            "24",
            "--level",
            "0.1",
            "--unit",
            "millimetres",
            "--gaussians.count",
            "30",
            "--gaussians.steps",
            "3",
        ]
    )
    out = tmp_path / "out"
    frames = json.loads((out / "transforms.json").read_text())["frames"]
    assert [(out / frame["file_path"]).is_file() for frame in frames] == [True] * VIEWS
    assert "002.png" in (out / "sparse" / "images.txt").read_text()
    assert len(json.loads((out / "cameras.gltf").read_text())["cameras"]) == VIEWS
    mesh = trimesh.load(out / "head.ply", force="mesh")
    assert mesh.is_watertight
    assert 50 < max(mesh.extents) <= 2 * 0.45 * 1000 / 2.7 * 1.1
    assert np.asarray(mesh.visual.vertex_colors)[:, 1:3].max() == 0  # the views are red
    scores = json.loads((out / "splats.json").read_text())
    assert scores["held_out"] == [3]
    assert scores["scores"].keys() == {"3D Gaussians", "S"}
    assert scores["scores"]["S"].keys() == scores["scores"]["3D Gaussians"].keys() >= {"PSNR"}
    assert b"element vertex 30" in (out / "head_splats.ply").read_bytes()
    assert "| 3D Gaussians |" in capsys.readouterr().out
    assert Image.open(out / "splats.png").width > SIZE


def keep_one_view(run: Path) -> None:
    for number in range(1, VIEWS):
        (run / "views" / f"{number:03d}.png").unlink()
    write_cameras([label_from_angles(0.0, 0.0)], run / "cameras.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "cameras.json").unlink(), "its views have no cameras"),
        (lambda run: (run / "settings.json").write_text("{}"), "it has no image_size"),
        (lambda run: (run / "settings.json").write_text('{"image_size": true}'), "it has no image_size"),
        (lambda run: (run / "settings.json").write_text('{"image_size": 100000}'), "image_size 100000: give"),
        (lambda run: (run / "settings.json").unlink(), "settings.json"),
        (lambda run: [(run / "views" / f"00{n}.png").unlink() for n in (1, 2, 3)], "1 views for 4 cameras"),
        (lambda run: (run / "views" / "001.png").unlink(), "3 views for 4 cameras"),
        (lambda run: (run / "views" / "001.png").write_bytes(b"not a picture"), "001.png"),
        (lambda run: (run / "portrait_0.png").unlink(), "it has no portrait_0.png"),
        (keep_one_view, "1 view; 2 or more are needed"),
    ],
)
def test_damaged_runs_are_input_errors(run_folder: Path, tmp_path: Path, damage, message: str):
    damage(run_folder)
    with pytest.raises(InputError, match=message):
        main([str(run_folder), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_mesh_needs_a_model_with_a_noise_prior(run_folder: Path, tmp_path: Path):
    arguments = ["--format", '["ply"]', "--model", str(tmp_path)]
    with pytest.raises(InputError, match=r"ply need a model with S \(noise_prior/\)"):
        main([str(run_folder), "--out", str(tmp_path / "out"), *arguments])


def test_splats_need_four_views(run_folder: Path, tmp_path: Path):
    (run_folder / "views" / "003.png").unlink()
    write_cameras([label_from_angles(0.4 * n, 0.0) for n in range(3)], run_folder / "cameras.json")
    with pytest.raises(InputError, match="3 views are too few for 3D Gaussians"):
        main([str(run_folder), "--out", str(tmp_path / "out"), "--format", '["splat"]'])


def test_masks_are_binary_and_named_for_colmap_and_nerfstudio(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    soft = np.full((VIEWS, SIZE, SIZE), 100, np.uint8)
    soft[:, 4:] = 200
    monkeypatch.setattr("lightning_modules.export_3d.check_segmentation", lambda: None)
    monkeypatch.setattr("lightning_modules.export_3d.foreground_masks", lambda _: soft)
    main([str(run_folder), "--out", str(tmp_path / "out"), "--masks", "true"])
    frames = json.loads((tmp_path / "out" / "transforms.json").read_text())["frames"]
    assert frames[2]["mask_path"] == "masks/002.png.png"
    mask = np.asarray(Image.open(tmp_path / "out" / frames[2]["mask_path"]))
    assert np.array_equal(mask, np.where(soft[0] == 200, 255, 0))
