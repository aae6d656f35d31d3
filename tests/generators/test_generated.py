"""Generators as renderers: identities by number, shared cameras, face checks."""

import json
import logging
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from jsonargparse import ArgumentError, ArgumentParser
from PIL import Image

from core.errors import InputError
from generators.gan.cameras import check_range, in_world, measured_frame, measuring_cameras
from generators.gan.folder import save_generator
from generators.gan.generator import Generator
from generators.gan.options import GeneratorOptions
from generators.gan.renderer import GeneratedHead
from generators.registry import (
    RendererChoice,
    check_renderer,
    is_renderer,
    open_renderer,
    renderer_record,
)
from portraits.cameras import PIVOT, label_from_angles, project
from portraits.geometry import STANDARD_LANDMARKS
from tests.faces import DOTS, DotDetector
from tests.generators.toy_generators import toy_generator, toy_settings


def cameras(*yaws):
    return np.stack([label_from_angles(yaw, 0.05) for yaw in yaws])


@pytest.fixture(params=["eg3d", "panohead"])
def renderer(request, tmp_path):
    folder = tmp_path / request.param
    save_generator(toy_generator(request.param), folder, "toy")
    return open_renderer(GeneratorOptions(str(folder), faces=False, frame="own"))


def test_identity_is_deterministic_across_views(renderer):
    views = renderer.render(5, cameras(-0.4, 0.4), 24)
    assert views.images.shape == (2, 24, 24, 3)
    assert views.masks.shape == (2, 24, 24)
    assert views.images.dtype == views.masks.dtype == np.uint8
    again = renderer.render(5, cameras(0.4), 24)
    np.testing.assert_array_equal(again.images[0], views.images[1])
    assert (renderer.render(6, cameras(0.4), 24).images != again.images).any()
    assert (views.images[0] != views.images[1]).any()


def test_planes_are_computed_once_per_person(renderer, monkeypatch):
    calls = []
    computed = Generator.identity
    monkeypatch.setattr(Generator, "identity", lambda *a, **k: calls.append(1) or computed(*a, **k))
    for _ in range(3):
        renderer.render(9, cameras(0.0, 0.1, 0.2), 16)
    assert len(calls) == 1


def test_seed_and_truncation_change_identities(renderer):
    images = [
        open_renderer(replace(renderer.options, **more)).render(1, cameras(0.0), 16).images
        for more in (
            {"seed": 0},
            {"seed": 1},
            {"truncation": 0.3},
            {"truncation": 0.7},
            {"truncation": 0.0, "seed": 3},
        )
    ]
    assert (images[0] != images[1]).any()
    assert (images[0] != images[2]).any()
    np.testing.assert_array_equal(images[0], images[3])
    average = open_renderer(replace(renderer.options, truncation=0.0))
    np.testing.assert_array_equal(images[4], average.render(77, cameras(0.0), 16).images)


class ThirdImageDetector:
    """A detector that finds a face in the third image only."""

    def __init__(self):
        self.asked = 0

    def faces(self, image):  # noqa: ARG002
        self.asked += 1
        return DotDetector().faces(paint(cameras(0.0)[0], STANDARD_LANDMARKS)) if self.asked == 3 else []


class NoFaceDetector:
    def faces(self, image):  # noqa: ARG002
        return []


def test_people_without_a_face_are_redrawn(renderer):
    head = GeneratedHead(replace(renderer.options, faces=True), "cpu")
    head.__dict__["_detector"] = ThirdImageDetector()
    found = head.latents([4])
    assert head._detector.asked == 3
    assert not np.array_equal(found, renderer.latents([4]))
    head.__dict__["_detector"] = NoFaceDetector()
    with pytest.raises(InputError, match="no face is detected in 8 draws of identity 4"):
        head.latents([4])


def test_unmeasurable_head_frame_is_an_input_error(renderer):
    head = GeneratedHead(replace(renderer.options, faces=True, frame="measured"))
    head.__dict__["_detector"] = NoFaceDetector()
    with pytest.raises(InputError, match="the head's frame cannot be measured on the average identity"):
        head.render(0, cameras(0.0), 16)


def paint(label, points, side=160):
    """An image with dots at world points (5, 3)."""
    image = np.full((side, side, 3), 60, np.uint8)
    for (x, y), colour in zip(project(points, label) * side - 0.5, DOTS, strict=True):
        cv2.circle(image, (round(x * 16), round(y * 16)), side // 4, colour, -1, cv2.LINE_AA, shift=4)
    return Image.fromarray(image)


def test_measured_frame_maps_landmarks_to_eg3ds():
    """Through its measured frame, a displaced head's landmarks project to where EG3D's do."""
    there = 0.9 * STANDARD_LANDMARKS + (0.02, -0.03, -0.18)
    own = measuring_cameras(toy_settings("panohead"))
    frame = measured_frame([paint(label, there) for label in own], own, DotDetector())
    for shared in cameras(-0.6, 0.0, 0.5):
        seen = project(there, in_world(shared[None], frame)[0])
        np.testing.assert_allclose(seen, project(STANDARD_LANDMARKS, shared), atol=0.01)
    np.testing.assert_array_equal(in_world(own, None), own)
    np.testing.assert_allclose(project(np.zeros((1, 3)), own[2]), [[0.5, 0.5]], atol=1e-6)
    assert PIVOT != (0.0, 0.0, 0.0)


def test_cameras_outside_the_training_range_give_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        check_range(cameras(0.0, 1.2), "eg3d")
        check_range(cameras(3.0), "panohead")
    assert not caplog.records
    check_range(cameras(0.0, 2.0), "eg3d")
    assert "1 of 2 cameras are outside the range of its training images" in caplog.text


def test_range_warning_appears_once(renderer, caplog):
    for pitch in (1.2, 1.1, 1.2):
        renderer.render(1, label_from_angles(0.0, pitch)[None], 16)
    assert caplog.text.count("outside the range of its training images") == 1


def parsed(*arguments):
    """The value of a renderer option, parsed as by commands."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--conditions", type=RendererChoice, default="synthetic")
    return parser.instantiate(parser.parse_args(arguments)).conditions


def test_renderer_options_are_typed_arguments(tmp_path):
    folder = str(tmp_path / "gan")
    save_generator(toy_generator("panohead"), tmp_path / "gan", "toy")
    given = ["--conditions.folder", folder, "--conditions.truncation", "0.5", "--conditions.faces", "false"]
    assert parsed(*given) == GeneratorOptions(folder, truncation=0.5, faces=False)
    assert parsed("--conditions", f"panohead:{folder}") == f"panohead:{folder}"
    assert parsed() == "synthetic"
    for wrong in (["--conditions.truncation", "much"], ["--conditions.colour", "1"]):
        with pytest.raises(ArgumentError):
            parsed("--conditions.folder", folder, *wrong)
    short, long = open_renderer(f"panohead:{folder}"), open_renderer(GeneratorOptions(folder))
    assert short.options == long.options
    assert short.options.measures_frame()
    save_generator(toy_generator("eg3d"), tmp_path / "other", "toy")
    assert not GeneratorOptions(str(tmp_path / "other")).measures_frame()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("eg3d", "needs a generator folder"),
        ("eg3d:nowhere", "nowhere is not a generator folder"),
        ("eg3d:{folder}?seed=1", "give options as --conditions.folder .*gan --conditions.truncation"),
        ("panohead:{folder}", "the generator in that folder is eg3d"),
        ("synthetic:{folder}", "has no options"),
        ("nobody:{folder}", "there is no such renderer"),
        (GeneratorOptions("nowhere"), "nowhere is not a generator folder"),
    ],
)
def test_invalid_renderers_are_input_errors(choice, message, tmp_path):
    save_generator(toy_generator("eg3d"), tmp_path / "gan", "toy")
    with pytest.raises(InputError, match=message):
        check_renderer(choice.format(folder=tmp_path / "gan") if isinstance(choice, str) else choice)
    with pytest.raises(InputError, match="truncation must be from 0 to"):
        GeneratorOptions("anywhere", truncation=9)


def test_renderer_record_depends_on_options_and_weights(tmp_path):
    folder = tmp_path / "gan"
    records = [renderer_record("synthetic")]
    for changes in ({}, {"near": 2.0}):
        save_generator(toy_generator("eg3d", **changes), folder, "toy")
        records += [renderer_record(f"eg3d:{folder}"), renderer_record(GeneratorOptions(str(folder), seed=1))]
        shutil.rmtree(folder)
    other = toy_generator("eg3d")
    other.decoder.net[0].bias.data += 1
    save_generator(other, folder, "toy")
    records.append(renderer_record(f"eg3d:{folder}"))
    assert records[0] == "synthetic"
    assert len({json.dumps(record) for record in records}) == len(records)


def test_is_renderer():
    assert is_renderer("eg3d:somewhere")
    assert is_renderer("synthetic")
    assert is_renderer(GeneratorOptions("somewhere"))
    assert not is_renderer("somewhere/eg3d")
