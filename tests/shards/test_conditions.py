"""Conditions of sources that have none, by the built-in renderer."""

import pickle

import numpy as np
import pytest

from core.errors import InputError
from core.workers import ONLY_WORKER, Worker
from generators.base import Renders
from generators.registry import check_renderer
from portraits.cameras import angles, label_from_angles
from shards.conditions import Portrait, RenderedConditions, in_units, render_conditions
from shards.schema import Sample, SampleMeta
from shards.skips import Skip
from tests.faces import FlatRenderer
from tests.shards.fake_source import FakeSource

SIZE = 48


class Plain(RenderedConditions, FakeSource):
    """A source of frames of two views, one for each number of a unit."""

    conditions = "synthetic"

    def portraits(self, unit: tuple[str, ...], worker: Worker = ONLY_WORKER) -> list[Portrait | Skip]:  # noqa: ARG002
        """A frame for each name, a skip for "nobody"."""
        return [Skip(name, "gone") if name == "nobody" else frame(name) for name in unit]


class Flat(Plain):
    """The same with people of one colour."""

    _renderer = FlatRenderer()


def cameras(*yaws: float) -> np.ndarray:
    return np.stack([label_from_angles(np.radians(yaw), 0.0) for yaw in yaws])


def frame(name: str, *yaws: float, size: int = 4) -> Portrait:
    """A black frame of the person `name`, of two views by default."""
    seen = cameras(*(yaws or (0.0, 9.0)))
    meta = SampleMeta("a", name, "train", "c", "0", "eg3d", "CC0-1.0")
    return Portrait(meta, np.zeros((len(seen), size, size, 3), np.uint8), seen)


def people(renders: list[np.ndarray]) -> list[list[bytes]]:
    """The flat colours of each frame's views."""
    return [[view.tobytes() for view in frames] for frames in renders]


def test_conditions_show_another_person_per_view_deterministically():
    (views,) = people(render_conditions(FlatRenderer(), [frame("b", 0, 0, 0)]))
    assert len(set(views)) == 3
    assert people(render_conditions(FlatRenderer(), [frame("b", 0, 0, 0)])) == [views]
    (others,) = people(render_conditions(FlatRenderer(), [frame("d", 0, 0, 0)]))
    assert set(views).isdisjoint(others)


def test_frames_of_a_unit_share_people_by_view():
    first, second, third = people(render_conditions(FlatRenderer(), [frame(x) for x in "bcd"]))
    assert first == second == third
    few, many = people(render_conditions(FlatRenderer(), [frame("b"), frame("c", 0, 0, 0)]))
    assert many[:2] == few
    assert many[2] not in few


class Recorder:
    """A renderer whose images are the yaws of the cameras in degrees, and that records what it is asked."""

    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def render(self, identity: int, labels: np.ndarray, size: int) -> Renders:
        """Images of one grey."""
        self.calls.append((identity, len(labels)))
        grey = np.degrees(angles(labels)[:, 0]).round().astype(np.uint8)
        images = np.broadcast_to(grey[:, None, None, None], (len(labels), size, size, 3))
        return Renders(images, images[..., 0])


def test_person_is_built_once_and_rendered_at_the_camera_of_each_frame():
    renderer = Recorder()
    found = render_conditions(renderer, [frame("b", 10, 20), frame("c", 30, 40, 50), frame("d", 60)])
    assert [views[:, 0, 0, 0].tolist() for views in found] == [[10, 20], [30, 40, 50], [60]]
    assert [count for _, count in renderer.calls] == [3, 2, 1]
    assert len({identity for identity, _ in renderer.calls}) == 3


def test_progress_is_reported_by_view():
    shares: list[float] = []
    Flat().capture(("b", "d"), Worker(report=shares.append))
    assert shares == [pytest.approx(1 / 3), pytest.approx(2 / 3)]


def test_captured_frames_keep_order_and_skips():
    results = Flat().capture(("b", "nobody", "d"))
    assert [type(result) for result in results] == [Sample, Skip, Sample]
    expected = render_conditions(FlatRenderer(), [frame("b"), frame("d")])
    for sample, conditions in zip(results[::2], expected, strict=True):
        np.testing.assert_array_equal(sample.conditions, conditions)
    assert Plain().capture(("nobody",)) == [Skip("nobody", "gone")]  # without opening the renderer


def test_frame_has_masks_only_if_every_view_has():
    meta = SampleMeta("a", "b", "train", "c", "0", "eg3d", "CC0-1.0")
    images, mask = np.zeros((2, 4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8)
    masks = Portrait.of(meta, images, cameras(0, 9), [mask, mask]).masks
    assert masks is not None
    assert masks.shape == (2, 4, 4)
    assert Portrait.of(meta, images, cameras(0, 9), [mask, None]).masks is None
    assert Portrait.of(meta, images, cameras(0, 9)).masks is None


def test_units_have_consecutive_parts_of_one_split():
    parts = [("train", 1), ("train", 1), ("train", 3), ("train", 1), ("val", 1), ("val", 5), ("test", 2)]
    units = in_units(parts, lambda part: part[1], lambda part: part[0], least=3)
    assert [part for unit in units for part in unit] == parts
    assert [len(unit) for unit in units] == [3, 1, 2, 1]
    assert in_units(parts, lambda _: 1, lambda part: part[0], least=1) == [(part,) for part in parts]


@pytest.mark.parametrize(
    ("name", "place", "light"),
    [("studio", "studio", "baked"), ("synthetic", "anywhere", "traced"), ("baked", "anywhere", "baked")],
)
def test_renderer_is_opened_lazily_by_name(name: str, place: str, light: str):
    source = pickle.loads(pickle.dumps(Plain()))
    source.conditions = name
    assert (source.renderer().place, source.renderer().light) == (place, light)
    with pytest.raises(InputError, match="there is no such renderer"):
        check_renderer("nobody")


@pytest.mark.slow
def test_conditions_are_rendered_at_the_targets_cameras():
    from generators.parametric.renderer import SyntheticHead

    renderer = SyntheticHead()
    ((left, right),) = render_conditions(renderer, [frame("ada", -60, 60, size=SIZE)])
    ((again,),) = render_conditions(renderer, [frame("ada", -60, size=SIZE)])
    np.testing.assert_array_equal(left, again)
    ((frontal,),) = render_conditions(renderer, [frame("ada", 0, size=SIZE)])
    assert np.abs(frontal.astype(int) - left).mean() > 5
    assert np.abs(right.astype(int) - left).mean() > 5
