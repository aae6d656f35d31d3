import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import InputError
from lightning_modules.ablations import Study
from lightning_modules.demo import SIDE, check_out, orbit_line, people, shown_rows
from lightning_modules.likeness import neighbour_difference
from lightning_modules.sampling.pipeline import to_image
from lightning_modules.sampling.settings import Sampling
from portraits.camera_files import write_cameras
from portraits.cameras import label_from_angles
from portraits.contact_sheet import GUTTER, MARGIN
from portraits.pixels import to_pixels
from shards.builder import build
from shards.sources.synthetic import SyntheticCapture
from tests.networks.toy import toy_model
from tests.shards.fake_source import FakeSource


def test_overwrite_replaces_only_demo_folders(tmp_path):
    check_out(tmp_path / "new", overwrite=False)
    with pytest.raises(InputError, match="exists already"):
        check_out(tmp_path, overwrite=False)
    with pytest.raises(InputError, match="was not written by this command"):
        check_out(tmp_path, overwrite=True)
    (tmp_path / "table.json").write_text("{}")
    check_out(tmp_path, overwrite=True)


def test_people_with_the_largest_turns_are_side_by_side():
    views = (torch.arange(4.0) / 2 - 1).view(4, 1, 1, 1, 1).expand(4, 2, 3, 16, 16)
    turns = (0.1, 0.4, 0.2, 0.3)
    cameras = [np.stack([label_from_angles(yaw, 0.0) for yaw in (-turn, turn)]) for turn in turns]
    camera = torch.from_numpy(np.stack(cameras))
    sheet = people({"reference": views, "condition": views, "target": views, "camera": camera}, views, views)
    width = GUTTER + 2 * (SIDE + MARGIN)
    assert sheet.width == MARGIN + 2 * width
    middles = [(MARGIN + place * width + GUTTER + SIDE // 2, MARGIN + SIDE // 2) for place in range(2)]
    expected = [to_image(views[person, 0]).getpixel((0, 0)) for person in (1, 3)]
    assert [sheet.getpixel(middle) for middle in middles] == expected


@pytest.mark.parametrize(("strength", "more"), [(1.0, []), (0.3, ["strength 1, as in the paper"])])
def test_row_at_strength_1_is_always_shown(strength, more):
    rows = shown_rows(Study(toy_model(prior=True), Sampling(steps=2, strength=strength)))
    names = ["truth", "reference returned", "S alone", "full model"]
    assert [row.name for row in rows] == [*names, *more]


@pytest.fixture
def orbit(tmp_path):
    """An orbit of three grey views, each ten levels lighter than the one before, and its cameras."""
    (tmp_path / "orbit" / "views").mkdir(parents=True)
    for number in range(3):
        grey = Image.fromarray(np.full((24, 24, 3), 100 + 10 * number, np.uint8))
        grey.save(tmp_path / "orbit" / "views" / f"{number}.png")
    cameras = np.stack([label_from_angles(yaw, 0.0) for yaw in (-0.3, 0.0, 0.3)])
    write_cameras(cameras, tmp_path / "orbit" / "cameras.json")
    return tmp_path / "orbit", cameras


def test_orbit_line_reports_neighbour_difference(orbit, tmp_path):
    build(FakeSource(1, 1, views=4, size=24), tmp_path / "fake", 0)
    line = orbit_line(orbit[0], str(tmp_path / "fake"), "fake-0000-still-0")
    assert line == "- an orbit of 3 views: neighbouring views differ by 13.33 levels of 256\n"


@pytest.mark.slow
def test_orbit_line_compares_with_rendered_truth(orbit, tmp_path):
    options = {"identities": 1, "val_identities": 0, "test_identities": 1, "views": 2, "size": 24}
    capture = SyntheticCapture(**options, samples=1, place="studio", seed=7)
    build(capture, tmp_path / "people", 0)
    key = "synthetic-s7i000000-smile-000"
    line = orbit_line(orbit[0], str(tmp_path / "people"), key)
    true = neighbour_difference(to_pixels(capture.renders(key, orbit[1]).images))
    assert true > 1
    assert line.endswith(f"differ by 13.33 levels of 256, the truth's by {true:.2f}\n")
