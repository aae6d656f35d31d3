"""The studio renderer: baked light, and its images."""

import numpy as np
import pytest

from generators.parametric.environment import Environment, luminance, sample_environment
from generators.parametric.expression import sample_expression
from generators.parametric.light import bake, median_cut
from generators.parametric.lit_scene import LitScene
from generators.parametric.person import sample_person
from generators.parametric.renderer import RAYS, SyntheticHead, render_on_threads, studio_instant
from generators.parametric.studio import sample_studio
from portraits.cameras import label_from_angles

HEIGHT, WIDTH = 64, 128


def uniform(level: float) -> Environment:
    return Environment(np.full((HEIGHT, WIDTH, 3), level, np.float32), 1.0)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR of 8-bit images in dB."""
    mse = np.square((one.astype(float) - other) / 255).mean()
    return float(-10 * np.log10(max(mse, 1e-10)))


@pytest.mark.parametrize("sample", [sample_studio, sample_environment])
def test_lights_match_the_environments_irradiance(sample):
    """Irradiance on two planes: the integral over the environment against the sum over lights."""
    environment = sample(np.random.default_rng(3))
    lights = median_cut(environment)
    assert lights.directions.shape == lights.colours.shape == (32, 3)
    np.testing.assert_allclose(np.linalg.norm(lights.directions, axis=1), 1)
    image = environment.image
    polar, azimuth = np.meshgrid(
        (np.arange(image.shape[0]) + 0.5) / image.shape[0] * np.pi,
        (np.arange(image.shape[1]) + 0.5) / image.shape[1] * 2 * np.pi,
        indexing="ij",
    )
    towards = np.stack(
        [np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)], axis=-1
    )
    solid = np.sin(polar)[..., None] * 2 * np.pi**2 / polar.size
    np.testing.assert_allclose(lights.colours.sum(0), (image * solid).sum((0, 1)), rtol=0.01)
    for normal in np.eye(3)[1:]:  # facing up, and facing the cameras
        integral = (image * solid * np.clip(towards @ normal, 0, None)[..., None]).sum((0, 1))
        summed = (lights.colours * np.clip(lights.directions @ normal, 0, None)[:, None]).sum(0)
        np.testing.assert_allclose(summed, integral, rtol=0.1)


def test_uniform_light_leaves_cavities_darker():
    rng = np.random.default_rng(5)
    scene = LitScene(sample_person(rng), sample_expression(rng)[1], uniform(1.0), 0, 32)
    body = scene.body
    baked = bake(scene.scene, body.vertices, body.normals, np.zeros(3), median_cut(uniform(1.0)), np.zeros(3))
    tongue = next(i for i, s in enumerate(body.surfaces) if s.gloss.roughness == 0.30)
    skin = body.owner == 0
    forehead = skin & (body.vertices[:, 2] > np.quantile(body.vertices[skin, 2], 0.97))
    assert baked.openness[forehead].mean() > 0.8
    assert baked.openness[body.owner == tongue].mean() < 0.4
    assert baked.openness.min() >= 0
    assert baked.openness.max() <= 1


def test_studio_view_is_thread_independent_with_a_fixed_backdrop():
    cameras = np.stack([label_from_angles(yaw, 0.1) for yaw in (-0.2, 0.2)])
    renders = []
    for threads in (1, 2):
        render_on_threads(threads)
        renders.append(SyntheticHead(place="studio").render(9, cameras, 32))
    np.testing.assert_array_equal(renders[0].images, renders[1].images)
    np.testing.assert_array_equal(renders[0].masks, renders[1].masks)
    images, masks = renders[0].images.astype(int), renders[0].masks
    behind = (masks == 0).all(0)
    assert behind.any()
    assert np.ptp(images[:, behind], axis=0).max() <= 1  # masks are rounded to zero
    assert masks[:, 14:18, 14:18].min() == 255


def test_studio_people_differ_and_are_well_exposed():
    front = label_from_angles(0.0, 0.0)
    renders = [SyntheticHead(place="studio").render(number, front, 32) for number in range(2)]
    assert np.abs(renders[0].images.astype(int) - renders[1].images).mean() > 8
    for render in renders:
        face = luminance(render.images[0, 12:20, 12:20].astype(float)).mean()
        assert 40 < face < 230


@pytest.mark.slow
def test_renders_with_different_seeds_agree():
    """At least 38 dB on average, and 35 dB for every person of 32."""
    cameras = np.stack([label_from_angles(0.0, 0.0), label_from_angles(0.7, -0.2)])
    agreements = []
    for number in range(32):
        rng = np.random.default_rng([number, 9])
        _, scene = studio_instant(sample_person(rng), rng, 128, RAYS)
        pair = [scene.render(cameras, seed=seed).images for seed in (0, 1000)]
        agreements.append(agreement(*pair))
    assert np.mean(agreements) >= 38
    assert min(agreements) >= 35
