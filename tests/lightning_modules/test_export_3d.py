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

SIZE = 16


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What `synthesize` leaves of one person, by a model whose S is a toy."""
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
    for number in range(3):
        Image.new("RGB", (SIZE, SIZE), (60 * number, 0, 0)).save(folder / "views" / f"{number:03d}.png")
    Image.new("RGB", (SIZE, SIZE), "grey").save(folder / "portrait_0.png")
    write_cameras([label_from_angles(0.5 * n - 0.5, 0.0) for n in range(3)], folder / "cameras.json")
    settings = {"image_size": SIZE, "model": str(tmp_path / "model")}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def test_all_formats_of_a_run(run_folder: Path, tmp_path: Path):
    formats = ["nerfstudio", "colmap", "gltf", "ply", "glb"]
    arguments = ["--out", str(tmp_path / "out"), "--format", json.dumps(formats)]
    main([str(run_folder), *arguments, "--resolution", "24", "--level", "0.1", "--unit", "millimetres"])
    out = tmp_path / "out"
    frames = json.loads((out / "transforms.json").read_text())["frames"]
    assert [(out / frame["file_path"]).is_file() for frame in frames] == [True] * 3
    assert "002.png" in (out / "sparse" / "images.txt").read_text()
    assert len(json.loads((out / "cameras.gltf").read_text())["cameras"]) == 3
    mesh = trimesh.load(out / "head.ply", force="mesh")
    assert mesh.is_watertight
    assert 50 < max(mesh.extents) <= 2 * 0.45 * 1000 / 2.7 * 1.1
    assert np.asarray(mesh.visual.vertex_colors)[:, 1:3].max() == 0  # the views are red


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "cameras.json").unlink(), "it has no cameras.json"),
        (lambda run: (run / "settings.json").write_text("{}"), "it has no image_size"),
        (lambda run: (run / "settings.json").unlink(), "settings.json"),
        (lambda run: [(run / "views" / f"00{n}.png").unlink() for n in (1, 2)], "at least two are needed"),
        (lambda run: (run / "views" / "001.png").unlink(), "2 views and 3 cameras"),
        (lambda run: (run / "views" / "001.png").write_bytes(b"not a picture"), "001.png"),
    ],
)
def test_damaged_runs_are_refused_in_one_line(run_folder: Path, tmp_path: Path, damage, message: str):
    damage(run_folder)
    with pytest.raises(InputError, match=message):
        main([str(run_folder), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_mesh_takes_a_model_with_s(run_folder: Path, tmp_path: Path):
    arguments = ["--format", '["ply"]', "--model", str(tmp_path)]
    with pytest.raises(InputError, match=r"no noise_prior/ \(S\)"):
        main([str(run_folder), "--out", str(tmp_path / "out"), *arguments])
