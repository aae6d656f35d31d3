"""Generators together with a model: `synthesize` with generated conditions and inverted starting views, and
`generators.invert --predictions` on the predictions of `evaluate`."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from generators.gan.folder import save_generator
from generators.gan.options import GeneratorOptions
from generators.invert import main as invert
from generators.registry import open_renderer
from lightning_modules.evaluation.planning import plan_evaluation
from lightning_modules.evaluation.sampling import make_predictions
from lightning_modules.evaluation.settings import EvaluationRequest, RowSettings, ScoringSettings
from lightning_modules.evaluation.subjects import SubjectSettings
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.sampling import view_conditions
from lightning_modules.sampling.settings import Sampling
from lightning_modules.synthesize import main as synthesize
from portraits.camera_files import write_cameras
from portraits.predictions import Predictions
from shards.builder import build
from tests.faces import FlatRenderer
from tests.generators.inversion.test_pivotal import cameras, varied
from tests.networks.toy import toy_model, toy_prior
from tests.shards.fake_source import FakeSource

SIDE = 32


@pytest.fixture
def model(tmp_path):
    whole = replace(
        toy_model(), noise_prior=toy_prior(image_size=SIDE, encoder_channels=(8,) * 5, rendering_size=16)
    )
    whole.backbone.unet.register_to_config(sample_size=SIDE // whole.backbone.downsampling)
    save_portrait_model(whole, str(tmp_path / "model"))
    return tmp_path / "model"


def views(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "views").iterdir())])


def test_synthesis_starts_from_inverted_views(model, tmp_path, monkeypatch):
    monkeypatch.setattr(view_conditions, "open_renderer", lambda _: FlatRenderer())
    photos, labels = tmp_path / "photos", tmp_path / "cameras.json"
    photos.mkdir()
    draw = np.random.default_rng(0)
    for name in ("ada", "ben"):
        Image.fromarray(draw.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(photos / f"{name}.png")
    write_cameras(cameras(0.1, 0.1), tmp_path / "own.json")
    write_cameras(cameras(-0.3, 0.0, 0.3), labels)
    save_generator(varied("panohead"), tmp_path / "gan", "toy")
    given = [
        "--generator",
        str(tmp_path / "gan"),
        "--frame",
        "own",
        "--portraits",
        str(photos),
        "--size",
        str(SIDE),
    ]
    given += ["--portrait_cameras", str(tmp_path / "own.json"), "--cameras", str(labels)]
    given += ["--tuning.style_steps", "2", "--tuning.tune_steps", "1", "--tuning.perceptual_weight", "0"]
    invert([*given, "--out", str(tmp_path / "inverted")])
    common = ["--model", str(model), "--portraits", str(photos), "--cameras", str(labels), "--align", "false"]
    common += ["--steps", "1", "--window", "2", "--overlap", "1"]
    made = {}
    for name, noise in (
        ("inverted", str(tmp_path / "inverted")),
        ("prior", "3d-aware"),
        ("random", "random"),
    ):
        out = tmp_path / f"views of {name}"
        synthesize([*common, "--noise", noise, "--out", str(out)])
        made[name] = [views(out / person) for person in ("ada", "ben")]
    settings = json.loads((tmp_path / "views of inverted" / "settings.json").read_text())
    assert settings["starting_noise"] == "3d-aware"
    assert made["inverted"][0].shape == (3, SIDE, SIDE, 3)
    for person in range(2):
        assert (made["inverted"][person] != made["prior"][person]).any()
        assert (made["inverted"][person] != made["random"][person]).any()


def test_synthesis_takes_generated_conditions(model, tmp_path):
    labels = cameras(-0.3, 0.3)
    save_generator(varied("eg3d"), tmp_path / "gan", "toy")
    write_cameras(labels, tmp_path / "cameras.json")
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / "ada.png")
    given = [
        "--model",
        str(model),
        "--portrait",
        str(tmp_path / "ada.png"),
        "--align",
        "false",
        "--steps",
        "1",
    ]
    given += ["--cameras", str(tmp_path / "cameras.json"), "--identity", "7"]
    given += ["--conditions.folder", str(tmp_path / "gan"), "--conditions.faces", "false"]
    given += ["--conditions.truncation", "1"]
    synthesize([*given, "--window", "2", "--overlap", "1", "--out", str(tmp_path / "out")])
    shown = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "conditions").iterdir())]
    renderer = open_renderer(GeneratorOptions(str(tmp_path / "gan"), truncation=1.0, faces=False))
    np.testing.assert_array_equal(shown, renderer.render(7, labels, SIDE).images)


def test_evaluation_subjects_are_inverted(model, tmp_path):
    """Inversion uses the shards' cameras and copies the truths and conditions."""
    build(FakeSource(2, 1, views=3, size=SIDE), tmp_path / "shards", 0)
    subjects = SubjectSettings(str(tmp_path / "shards"), cache_dir=str(tmp_path / "cache"))
    scoring = ScoringSettings(metrics=["PSNR"])
    settings = RowSettings(str(model), subjects, sampling=Sampling(steps=1), scoring=scoring)
    (row,) = plan_evaluation(EvaluationRequest(settings, out=str(tmp_path / "made"))).rows
    theirs = make_predictions(row.predictions)
    save_generator(varied("eg3d"), tmp_path / "gan", "toy")
    given = ["--generator", str(tmp_path / "gan"), "--predictions", str(theirs.folder)]
    given += ["--tuning.style_steps", "1", "--tuning.tune_steps", "1", "--tuning.perceptual_weight", "0"]
    invert([*given, "--out", str(tmp_path / "inverted")])
    ours = Predictions.load(tmp_path / "inverted")
    assert ours.protocol == theirs.protocol == "novel_view"
    assert [view.name for view in ours.views] == [view.name for view in theirs.views]
    frames = {
        subject.key: subject for subject in row.predictions.subjects.read(row.predictions.subjects.keys)
    }
    for own, other in zip(ours.views, theirs.views, strict=True):
        np.testing.assert_array_equal(own.reference_camera, frames[own.subject].reference_cameras[0])
        for kind in ("truth", "condition"):
            pair = (ours.folder / getattr(own, kind), theirs.folder / getattr(other, kind))
            np.testing.assert_array_equal(*(Image.open(path) for path in pair))
