import hashlib

import numpy as np
import pytest

from core.errors import InputError
from portraits.cameras import angles
from shards.builder import build
from shards.sources.synthetic import SyntheticCapture

TINY = {
    "identities": 4,
    "val_identities": 1,
    "test_identities": 1,
    "views": 2,
    "size": 24,
    "samples": 1,
    "place": "anywhere",
}


def test_units_split_identities_without_overlap():
    source = SyntheticCapture(identities=40, val_identities=9, test_identities=3)
    by_split = {"train": set(), "val": set(), "test": set()}
    for unit in source.units():
        by_split[unit.split] |= set(unit.identities)
    assert [len(people) for people in by_split.values()] == [28, 9, 3]
    assert set.union(*by_split.values()) == set(range(40))


@pytest.mark.slow
def test_block_is_deterministic_with_conditions_of_other_people():
    source = SyntheticCapture(**TINY)
    unit = source.units()[0]
    first, again = source.capture(unit), SyntheticCapture(**TINY).capture(unit)
    assert source.frames(unit) == len(first) == 2
    for sample, twin in zip(first, again, strict=True):
        np.testing.assert_array_equal(sample.views, twin.views)
        np.testing.assert_array_equal(sample.conditions, twin.conditions)
    sample = first[0]
    assert sample.views.shape == sample.conditions.shape == (2, 24, 24, 3)
    assert sample.meta.split == "train"
    different = np.abs(sample.views.astype(int) - sample.conditions).mean((1, 2, 3))
    assert different.min() > 5
    other_seed = SyntheticCapture(**TINY, seed=1).capture(unit)[0]
    assert np.abs(other_seed.views.astype(int) - sample.views).mean() > 5


def test_cameras_are_wide_and_mostly_frontal():
    source = SyntheticCapture(views=200, place="anywhere")
    yaw, pitch = np.degrees(angles(source._cameras(0, 0))).T
    assert np.abs(yaw).max() <= 75.01
    assert np.abs(pitch).max() <= 25.01
    assert np.abs(yaw).max() > 60
    assert np.median(np.abs(yaw)) < 30


def test_studio_cameras_are_spread_over_the_arc():
    source = SyntheticCapture(views=16)
    yaw, pitch = np.degrees(angles(source._cameras(0, 0))).T
    assert np.abs(yaw).max() <= 47.01
    assert np.abs(pitch).max() <= 16.01
    assert np.diff(np.sort(yaw)).max() < 2 * 94 / 16 + 0.01
    assert not np.array_equal(np.sort(yaw), yaw)
    assert not np.array_equal(source._cameras(0, 0), source._cameras(1, 0))


def test_studio_block_is_deterministic_with_masks_and_conditions():
    tiny = TINY | {"place": "studio", "identities": 3}
    (first,), (again,) = (SyntheticCapture(**tiny).capture(SyntheticCapture(**tiny).units()[0]) for _ in "12")
    np.testing.assert_array_equal(first.views, again.views)
    np.testing.assert_array_equal(first.conditions, again.conditions)
    assert first.masks.shape == (2, 24, 24)
    assert np.abs(first.views.astype(int) - first.conditions).mean() > 5


@pytest.mark.parametrize("place", ["studio", pytest.param("anywhere", marks=pytest.mark.slow)])
def test_renders_reproduce_a_sample(place):
    source = SyntheticCapture(**TINY | {"place": place, "identities": 3, "seed": 7})
    (sample,) = source.capture(source.units()[0])
    again = source.renders(sample.meta.key, sample.cameras)
    np.testing.assert_array_equal(again.images, sample.views)
    for key in ("synthetic-s8i000000-smile-000", "synthetic-s7i000009-smile-000", "wild-x-y-z", "x"):
        with pytest.raises(InputError, match=f"{key} is not a sample of the built-in capture with seed 7"):
            source.renders(key, sample.cameras)


@pytest.mark.slow
def test_shards_do_not_depend_on_processes(tmp_path):
    digests = []
    for processes in (0, 2):
        out = tmp_path / f"built{processes}"
        build(SyntheticCapture(**TINY), out, processes=processes)
        digests.append(
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.tar")}
        )
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"identities": 47}, "--identities 47: give at least the"),
        ({"identities": 0, "val_identities": 0, "test_identities": 0}, "--identities 0: give 1 or more"),
        ({"views": 1}, "--views 1: give 2 or more"),
        ({"size": 4}, "--size 4: give 16 to 8192"),
        ({"seed": -1}, "cannot be negative"),
    ],
)
def test_invalid_settings_are_input_errors(settings, message):
    with pytest.raises(InputError, match=message):
        SyntheticCapture(**settings)
