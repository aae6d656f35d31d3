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


class GreyRenderer:
    """Renders each view as one grey level, by the camera's x and the identity."""

    name = "grey"

    def render(self, identity, labels, size):
        level = np.clip(128 + 40 * np.asarray(labels)[:, 3] + identity, 0, 255).astype(np.uint8)
        images = np.broadcast_to(level[:, None, None, None], (len(level), size, size, 3)).copy()
        return Renders(images, images[..., 0])


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_folder_of_conditions_is_in_natural_order(folder):
    images = find_conditions(str(folder), 0).images(None, 8)
    assert [image.size for image in images] == [(8, 8)] * 12
    assert [image.getpixel((0, 0))[0] for image in images] == list(range(12))


def test_renderer_is_found_by_name():
    assert find_conditions("synthetic", 3) == RenderedConditions("synthetic", 3)


def test_rendering_in_chunks_matches_rendering_at_once():
    cameras = trajectory("yaw_sweep", 11)
    images = render_view_conditions(GreyRenderer(), 3, cameras, 8)
    at_once = GreyRenderer().render(3, cameras, 8).images
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), at_once)


@pytest.mark.parametrize("views", [11, 13])
def test_condition_count_mismatch_is_an_input_error(folder, views):
    with pytest.raises(InputError, match=f"holds 12 conditions for {views} cameras"):
        check_count(find_conditions(str(folder), 0).files, views, "conditions")


def test_unknown_conditions_are_an_input_error(tmp_path):
    with pytest.raises(
        InputError, match="--conditions nowhere: there is no such folder, and the renderers are"
    ):
        find_conditions("nowhere", 0)
    with pytest.raises(InputError, match="there are no conditions in it"):
        find_conditions(str(tmp_path), 0)


def test_non_square_condition_is_an_input_error(tmp_path):
    Image.new("RGB", (20, 16)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match=r"0\.png: 20x16 pixels; conditions are square"):
        find_conditions(str(tmp_path), 0).images(None, 16)


def test_renderer_without_its_package_is_an_input_error(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'mitsuba'", name="mitsuba")

    monkeypatch.setattr(view_conditions, "open_renderer", missing)
    with pytest.raises(InputError, match="--conditions synthetic: rendering needs the package mitsuba"):
        prepare_renderer("synthetic")
