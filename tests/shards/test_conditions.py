"""Rendered conditions for sources that have none."""

import pickle

import numpy as np
import pytest

from core.errors import InputError
from core.workers import ONLY_WORKER
from generators.registry import check_renderer
from portraits.cameras import label_from_angles
from shards.conditions import RenderedConditions, render_conditions
from shards.schema import SampleMeta
from tests.faces import FlatRenderer
from tests.shards.fake_source import FakeSource

SIZE = 48


class Plain(RenderedConditions, FakeSource):
    """A source with conditions by the built-in renderer."""

    conditions = "synthetic"


class Flat(Plain):
    """The same with a renderer of flat colours."""

    _renderer = FlatRenderer()


def cameras(*yaws: float) -> np.ndarray:
    return np.stack([label_from_angles(np.radians(yaw), 0.0) for yaw in yaws])


def test_conditions_show_another_person_per_view_deterministically():
    views = render_conditions(FlatRenderer(), "a-b-c-0", cameras(0, 0, 0), 4)
    assert views.shape == (3, 4, 4, 3)
    assert len({view.tobytes() for view in views}) == 3
    np.testing.assert_array_equal(views, render_conditions(FlatRenderer(), "a-b-c-0", cameras(0, 0, 0), 4))
    assert (views != render_conditions(FlatRenderer(), "a-b-c-1", cameras(0, 0, 0), 4)).any()


def test_sample_has_masks_only_if_every_view_has():
    meta = SampleMeta("a", "b", "train", "c", "0", "eg3d", "CC0-1.0")
    images, mask = np.zeros((2, 4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8)
    sample = Flat().sample(meta, images, cameras(0, 9), ONLY_WORKER, [mask, mask])
    np.testing.assert_array_equal(
        sample.conditions, render_conditions(FlatRenderer(), meta.key, cameras(0, 9), 4)
    )
    assert sample.masks is not None
    assert sample.masks.shape == (2, 4, 4)
    assert Flat().sample(meta, images, cameras(0, 9), ONLY_WORKER, [mask, None]).masks is None
    assert Flat().sample(meta, images, cameras(0, 9), ONLY_WORKER).masks is None


def test_renderer_is_opened_lazily_by_name():
    assert pickle.loads(pickle.dumps(Plain())).conditions == "synthetic"
    with pytest.raises(InputError, match="there is no such renderer"):
        check_renderer("nobody")


@pytest.mark.slow
def test_conditions_are_rendered_at_the_targets_cameras():
    from generators.parametric.renderer import SyntheticHead

    renderer, key = Plain().renderer(), "wild-ada-photo-0"
    left, right = render_conditions(renderer, key, cameras(-60, 60), SIZE)
    np.testing.assert_array_equal(left, render_conditions(renderer, key, cameras(-60), SIZE)[0])
    frontal = render_conditions(renderer, key, cameras(0), SIZE)[0]
    assert np.abs(frontal.astype(int) - left).mean() > 5
    assert np.abs(right.astype(int) - left).mean() > 5
    assert isinstance(renderer, SyntheticHead)
