from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from core.errors import InputError
from generators.isosurface import Surface, colours_from_views, extract_surface, write_mesh
from portraits.cameras import label_from_angles

RADIUS = 0.3


def ball(points: torch.Tensor) -> torch.Tensor:
    """Density of a ball, 10 at its surface and growing inwards, and of a separate small ball."""
    apart = (points - torch.tensor([0.42, 0.42, 0.42])).norm(dim=1)
    return torch.maximum(10 + 100 * (RADIUS - points.norm(dim=1)), 10 + 100 * (0.04 - apart)).clamp_min(0)


@pytest.fixture(scope="module")
def surface() -> Surface:
    return extract_surface(ball, extent=0.5, level=10.0, resolution=48)


def test_ball_gives_a_watertight_surface_with_outward_normals(surface: Surface):
    np.testing.assert_allclose(np.linalg.norm(surface.vertices, axis=1), RADIUS, atol=2e-3)
    mesh = trimesh.Trimesh(surface.vertices, surface.faces)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.01)
    outwards = (surface.normals * surface.vertices).sum(1) / RADIUS
    assert outwards.min() > 0.9


def test_surface_cut_by_the_cube_is_closed():
    cut = extract_surface(ball, extent=0.25, level=10.0, resolution=32)
    assert trimesh.Trimesh(cut.vertices, cut.faces).is_watertight


def test_vertex_colours_come_from_the_views_that_see_it(surface: Surface):
    labels = np.stack([label_from_angles(0.0, 0.0), label_from_angles(np.pi, 0.0)])
    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[0, ..., 0], images[1, ..., 2] = 200, 100
    colours = colours_from_views(surface, images, labels)
    front, back = surface.vertices[:, 2] > 0.1, surface.vertices[:, 2] < -0.1
    assert (colours[front] == (200, 0, 0)).all()
    assert (colours[back] == (0, 0, 100)).all()


def test_image_halves_colour_their_side(surface: Surface):
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, :, 32:, 1] = 255
    colours = colours_from_views(surface, image, label_from_angles(0.0, 0.0)[None])
    facing = surface.normals[:, 2] > 0.5
    assert (colours[facing & (surface.vertices[:, 0] > 0.05), 1] == 255).all()
    assert (colours[facing & (surface.vertices[:, 0] < -0.05), 1] == 0).all()


@pytest.mark.parametrize(("name", "half"), [("head.ply", 188), ("head.glb", 128)])
def test_mesh_file_keeps_shape_colour_and_unit(surface: Surface, tmp_path: Path, name: str, half: int):
    """188 is half of the light in sRGB; glTF's vertex colours are linear."""
    colours = np.tile(np.array([[0, 188, 255]], np.uint8), (len(surface.vertices), 1))
    write_mesh(surface, colours, tmp_path / name, unit="millimetres")
    (read,) = trimesh.load_scene(tmp_path / name, process=False).geometry.values()
    np.testing.assert_allclose(read.extents, 2 * RADIUS * 1000 / 2.7, rtol=0.01)
    if name.endswith("glb"):
        assert read.visual.material.metallicFactor == 0
        written = read.visual.vertex_attributes["color"]
    else:
        written = read.visual.vertex_colors
    assert (np.asarray(written)[:, :3] == (0, half, 255)).all()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_empty_surfaces_and_unknown_suffixes_are_refused(surface: Surface, tmp_path: Path):
    with pytest.raises(InputError, match=r"at most 0, below the surface's 10: no mesh"):
        extract_surface(lambda points: torch.zeros(len(points)), 0.5, 10.0, 8)
    with pytest.raises(InputError, match=r"\.ply or \.glb"):
        write_mesh(surface, np.zeros((len(surface.vertices), 3), np.uint8), tmp_path / "head.obj")
