"""Condition images with baked light: what they show, and their noise."""

import numpy as np
import pytest

from generators.parametric.lit_scene import MOST_RAYS, LitScene
from generators.parametric.renderer import SyntheticHead, render_on_threads
from portraits.cameras import label, label_from_angles, split_label
from tests.generators.test_studio import agreement

BALD = 26  # the number of a person without hair and beard, whose strands differ between the two ways
SIZE = 48


@pytest.fixture(scope="module")
def scene() -> LitScene:
    render_on_threads(1)
    scene = SyntheticHead(light="baked").scene(BALD, SIZE)
    assert isinstance(scene, LitScene)
    assert len(scene.body.surfaces) == 6  # no hair
    return scene


def off_centre(yaw: float, pitch: float) -> np.ndarray:
    """A camera whose principal point is not the image's centre."""
    pose, intrinsics = split_label(label_from_angles(yaw, pitch).astype(np.float64))
    intrinsics[:2, 2] += (0.07, -0.04)
    return label(pose, intrinsics)


def test_baked_view_matches_the_path_traced_view(scene: LitScene):
    cameras = np.stack([label_from_angles(0.0, 0.0), off_centre(0.7, -0.3)])
    baked = scene.render(cameras)
    traced = SyntheticHead(samples=16).render(BALD, cameras, SIZE)
    for one, other in zip(baked.masks.astype(float), traced.masks, strict=True):
        assert np.abs(one - other).mean() / 255 < 0.012
        moved = np.abs(np.roll(one, 1, axis=1) - other).mean() / 255
        assert moved > 2 * np.abs(one - other).mean() / 255  # a pixel aside would be seen
    for one, other in zip(baked.images, traced.images, strict=True):
        assert agreement(one, other) > 20


def test_number_of_rays_follows_the_noise_limit(scene: LitScene):
    front = label_from_angles(0.0, 0.0)
    measured = {}
    for wanted in (0.0, 30.0, 34.0, 99.0):
        scene.cast_for(wanted)
        measured[scene.rays] = agreement(*(scene.render(front, seed).images for seed in (5, 6)))
        if scene.rays < MOST_RAYS:
            assert measured[scene.rays] > wanted - 0.5  # of other seeds than those it was chosen by
    assert min(measured) == 1
    assert max(measured) == MOST_RAYS
    assert sorted(measured, key=measured.__getitem__) == sorted(measured)
    scene.cast_for(measured[1] + 5.0)  # four rays have at least 6 dB more than one
    assert scene.rays == 2
