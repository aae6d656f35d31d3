"""Meshes of inverted portraits: density at the surface, and position in EG3D's world."""

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from core.errors import InputError
from generators.gan.folder import save_generator
from generators.gan.options import GeneratorOptions
from generators.gan.renderer import GeneratedHead
from generators.inversion.meshes import MeshOptions, head_surface, in_shared_world
from generators.inversion.pivotal import Inverted, Tuning
from generators.inversion.portraits import Portrait, views_at
from generators.inversion.run import Job, invert_portraits
from generators.isosurface import Surface
from generators.volume import density
from portraits.alignment.head import HeadFrame
from portraits.cameras import label_from_angles
from tests.generators.toy_generators import toy_generator

VIEWS = np.stack([label_from_angles(yaw, 0.05) for yaw in (-0.2, 0.3)])


@pytest.fixture(params=["eg3d", "panohead"])
def options(request, tmp_path) -> GeneratorOptions:
    """The options of a toy generator in a folder."""
    save_generator(toy_generator(request.param), tmp_path / "toy", "toy.pkl")
    return GeneratorOptions(str(tmp_path / "toy"), truncation=1.0, faces=False, frame="own")


def middle_level(head: GeneratedHead, inverted: Inverted) -> float:
    """The 80th percentile of the toy's density, so that a surface exists."""
    half = head.generator.settings.box / 2 * 0.9
    points = half * (2 * torch.rand(1, 1, 4000, 3, generator=torch.Generator().manual_seed(0)) - 1)
    planes = inverted.generator.identity(inverted.styles).planes
    return float(density(inverted.generator.field(planes, points)[1]).quantile(0.8))


@torch.no_grad()
def test_surface_density_equals_the_level(options):
    head = GeneratedHead(options, "cpu")
    z = torch.randn(1, 6, generator=torch.Generator().manual_seed(3))
    ws = head.generator.styles(z, torch.from_numpy(VIEWS[:1]))
    inverted = Inverted(head.generator, ws)
    level = middle_level(head, inverted)
    surface = head_surface(head, inverted, level, 24)
    half = head.generator.settings.box / 2
    # vertices cut by the generator's cube or its empty border are not at the level
    inner = surface.vertices[np.abs(surface.vertices).max(1) < 0.8 * half]
    planes = head.generator.identity(ws).planes
    found = density(head.generator.field(planes, torch.from_numpy(inner).float()[None, None])[1])
    assert len(inner) > 50
    assert float((found - level).abs().median()) < 0.05 * level
    assert trimesh.Trimesh(surface.vertices, surface.faces).is_watertight


def test_surface_is_converted_to_the_shared_world():
    turn = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    frame = HeadFrame(1.1, turn, np.array([0.0, 0.1, 0.0]))
    vertices, normals = np.random.default_rng(0).standard_normal((2, 5, 3))
    moved = in_shared_world(Surface(vertices, np.zeros((1, 3), int), normals), frame)
    np.testing.assert_allclose(frame.world(moved.vertices), vertices, atol=1e-12)
    np.testing.assert_allclose(moved.normals, normals @ turn.T)
    assert in_shared_world(moved, None) is moved


def test_inversion_writes_meshes(options, tmp_path):
    head = GeneratedHead(options, "cpu")
    average = Inverted(
        head.generator, head.generator.styles(torch.zeros(1, 6), torch.from_numpy(VIEWS[:1]), 0.0)
    )
    mesh = MeshOptions(["ply", "glb"], middle_level(head, average), 16, "millimetres")
    tuning = Tuning(style_steps=1, tune_steps=0, perceptual_weight=0.0)
    portrait = Portrait("ada", Image.new("RGB", (32, 32), "grey"), VIEWS[0], views_at("ada", VIEWS))
    out = tmp_path / "out"
    invert_portraits([portrait], Job(options, tuning, 16, mesh=mesh), out, ["cpu"])
    read = trimesh.load(out / "ada/head.ply", force="mesh")
    assert read.is_watertight
    assert (out / "ada/head.glb").stat().st_size > 1000
    with pytest.raises(InputError, match="other settings"):
        invert_portraits([portrait], Job(options, tuning, 16), out, ["cpu"])


def test_invalid_mesh_options_are_refused():
    with pytest.raises(InputError, match=r"--mesh.resolution 4 --mesh.level 9"):
        MeshOptions(resolution=4).check()
