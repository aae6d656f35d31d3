"""EG3D-PTI and PanoHead-PTI as baselines, at toy width."""

import numpy as np
import pytest
from PIL import Image

from baselines.base import Request
from baselines.registry import check_baseline, open_baseline
from core.errors import InputError
from generators.gan.folder import save_generator
from generators.gan.options import GeneratorOptions
from generators.inversion.pivotal import Tuning
from generators.inversion.portraits import Portrait, views_at
from generators.inversion.run import Job, invert_portraits
from portraits.cameras import label_from_angles
from tests.generators.inversion.test_pivotal import varied

QUICK = {"style_steps": 3, "tune_steps": 2, "perceptual_weight": 0.0}


def cameras(*yaws):
    return np.stack([label_from_angles(yaw, 0.05) for yaw in yaws])


def request(name="ada", *yaws):
    portrait = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), dtype=np.uint8)
    return Request(name, portrait, cameras(0.1), cameras(*yaws))


@pytest.mark.parametrize("kind", ["eg3d", "panohead"])
def test_views_match_the_invert_command(kind, tmp_path):
    save_generator(varied(kind), tmp_path / "gan", "toy")
    settings = {"tuning": QUICK, "frame": "own"}
    system = open_baseline(f"{kind}_pti", tmp_path / "gan", settings=settings)
    asked = request("ada", -0.4, 0.4)
    views = system.views(asked)
    assert views.shape == (2, system.native_size, system.native_size, 3)
    np.testing.assert_array_equal(views, system.views(asked))
    alone = system.views(request("ada", 0.4))
    np.testing.assert_allclose(
        views[1:].astype(int), alone, atol=1
    )  # the batch may decide how a level is rounded
    person = Portrait(
        "ada", Image.fromarray(asked.portraits[0]), cameras(0.1)[0], views_at("ada", asked.cameras)
    )
    job = Job(GeneratorOptions(str(tmp_path / "gan"), frame="own"), Tuning(**QUICK))
    made = invert_portraits([person], job, tmp_path / "out", ["cpu"])
    assert made.system == system.name
    for image, view in zip(views, made.views, strict=True):
        np.testing.assert_array_equal(image, Image.open(tmp_path / "out" / view.image))


def test_invalid_baselines_are_refused(tmp_path):
    save_generator(varied("eg3d"), tmp_path / "gan", "toy")
    check_baseline("eg3d_pti", tmp_path / "gan", {"tuning": QUICK})
    for kind, folder, settings, message in (
        ("panohead_pti", "gan", {}, "the generator in that folder is eg3d"),
        ("eg3d_pti", "nowhere", {}, "is not a generator folder"),
        (
            "eg3d_pti",
            "gan",
            {"tuning": {"style_steps": "3"}},
            "tuning.style_steps: Input should be a valid integer",
        ),
        ("eg3d_pti", "gan", {"tuning": {"tune_rate": 0}}, "rates are positive"),
        ("eg3d_pti", "gan", {"truncation": 0.5}, "truncation: Unexpected keyword argument"),
    ):
        with pytest.raises(InputError, match=message):
            check_baseline(kind, tmp_path / folder, settings)
