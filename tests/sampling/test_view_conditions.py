import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from generators.base import Renders
from lightning_modules.sampling import view_conditions
from lightning_modules.sampling.trajectories import trajectory
from lightning_modules.sampling.view_conditions import (
    RenderedConditions,
    find_conditions,
    prepare_renderer,
    render_view_conditions,
)
from portraits.image_folders import check_count


class Numbered:
    """Renders a view as its camera's x, for one identity."""

    name = "numbered"

    def render(self, identity, labels, size):
        level = np.clip(128 + 40 * np.asarray(labels)[:, 3] + identity, 0, 255).astype(np.uint8)
        images = np.broadcast_to(level[:, None, None, None], (len(level), size, size, 3)).copy()
        return Renders(images, images[..., 0])


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_folder_s_images_come_in_the_order_of_their_numbers(folder):
    images = find_conditions(str(folder), 0).images(None, 8)
    assert [image.size for image in images] == [(8, 8)] * 12
    assert [image.getpixel((0, 0))[0] for image in images] == list(range(12))


def test_a_renderer_is_known_by_its_name():
    assert find_conditions("synthetic", 3) == RenderedConditions("synthetic", 3)


def test_rendering_by_chunks_is_rendering_at_once():
    cameras = trajectory("yaw_sweep", 11)
    images = render_view_conditions(Numbered(), 3, cameras, 8)
    at_once = Numbered().render(3, cameras, 8).images
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), at_once)


@pytest.mark.parametrize("views", [11, 13])
def test_more_or_fewer_conditions_than_cameras_is_one_line(folder, views):
    with pytest.raises(InputError, match=f"holds 12 conditions for {views} cameras"):
        check_count(find_conditions(str(folder), 0).files, views, "conditions")


def test_no_folder_and_no_renderer_is_one_line(tmp_path):
    with pytest.raises(
        InputError, match="--conditions nowhere: there is no such folder, and the renderers are"
    ):
        find_conditions("nowhere", 0)
    with pytest.raises(InputError, match="there are no conditions in it"):
        find_conditions(str(tmp_path), 0)


def test_a_condition_that_is_not_square_is_one_line(tmp_path):
    Image.new("RGB", (20, 16)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match=r"0\.png: 20x16 pixels; conditions are square"):
        find_conditions(str(tmp_path), 0).images(None, 16)


def test_a_renderer_without_its_packages_is_one_line(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'mitsuba'", name="mitsuba")

    monkeypatch.setattr(view_conditions, "open_renderer", missing)
    with pytest.raises(InputError, match="--conditions synthetic: rendering needs the package mitsuba"):
        prepare_renderer("synthetic")
